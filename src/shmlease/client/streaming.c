/* Copies memory past the caches: what is written is not read into them first, which is a third of what an ordinary copy moves.

   memcpy does so too, but on a machine whose last cache is large only from 3/4 of its size on, which no process has for
   itself there. No library is called. Compiled by hatch_build.py. */

#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifndef SOURCE_CRC32
#define SOURCE_CRC32 0
#endif

const uint32_t shmlease_source_crc32 = SOURCE_CRC32;

#ifdef __SSE2__
#define LINE 64
#define PAGE 4096
#define STREAMS 4

/* A line of the cache, `to` at the beginning of one. */
static inline void copy_line(uint8_t *to, const uint8_t *from)
{
    const __m128i *line = (const __m128i *)from;
    __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1), c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
    __m128i *out = (__m128i *)to;
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
}

/* `size` bytes, which must not overlap. */
void shmlease_copy_streaming(const uint8_t *from, int64_t size, uint8_t *to)
{
    int64_t done = 0;
    for (; done < size && ((uintptr_t)(to + done) & (LINE - 1)); done++)
        to[done] = from[done];
    /* Some pages at once: each is a row of memory of its own, and what is read ahead is not one stream only. */
    for (; size - done >= STREAMS * PAGE; done += STREAMS * PAGE)
        for (int64_t line = 0; line < PAGE; line += LINE)
            for (int64_t page = 0; page < STREAMS * PAGE; page += PAGE) {
                _mm_prefetch((const char *)(from + done + page + line + 8 * LINE), _MM_HINT_T0);
                copy_line(to + done + page + line, from + done + page + line);
            }
    for (; size - done >= LINE; done += LINE)
        copy_line(to + done, from + done);
    for (; done < size; done++)
        to[done] = from[done];
    _mm_sfence(); /* whoever is told of it afterwards sees it */
}
#endif
