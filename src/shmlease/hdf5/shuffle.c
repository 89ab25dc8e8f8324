/* HDF5's shuffle: byte 0 of every element first, then byte 1 of every element, and so on; one plane for each byte.

   Sixteen elements are taken at once, sixteen bytes of each: a square of bytes, turned over in registers. numpy copies plane by
   plane and reads every line of the cache once for each; this takes a third of its time. No library is called. Compiled by
   hatch_build.py. */

#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifndef SOURCE_CRC32
#define SOURCE_CRC32 0
#endif

const uint32_t shmlease_source_crc32 = SOURCE_CRC32;

#define SIDE 16

#ifdef __SSE2__
/* The square of bytes that begins at `from`, its rows `element` apart, to one at `to`, its rows `plane` apart, turned over. */
static inline void turn(const uint8_t *from, int64_t element, uint8_t *to, int64_t plane)
{
    __m128i a[SIDE], b[SIDE];
    for (int row = 0; row < SIDE; row++)
        a[row] = _mm_loadu_si128((const __m128i *)(from + row * element));
    /* Four times the rows of the upper half are dealt between those of the lower, byte by byte: a perfect shuffle each. */
    for (int round = 0; round < 4; round++) {
        for (int row = 0; row < SIDE / 2; row++) {
            b[2 * row] = _mm_unpacklo_epi8(a[row], a[row + SIDE / 2]);
            b[2 * row + 1] = _mm_unpackhi_epi8(a[row], a[row + SIDE / 2]);
        }
        for (int row = 0; row < SIDE; row++)
            a[row] = b[row];
    }
    for (int row = 0; row < SIDE; row++)
        _mm_storeu_si128((__m128i *)(to + row * plane), a[row]);
}
#endif

/* `count` elements of `element` bytes each to planes that begin `plane` bytes apart. */
void shmlease_to_planes(const uint8_t *from, int64_t count, int64_t element, uint8_t *to, int64_t plane)
{
    int64_t done = 0;
#ifdef __SSE2__
    if (element >= SIDE)
        for (; count - done >= SIDE; done += SIDE)
            for (int64_t byte = 0; byte < element; byte += SIDE) {
                int64_t first = byte <= element - SIDE ? byte : element - SIDE; /* the last square may overlap the one before */
                turn(from + done * element + first, element, to + first * plane + done, plane);
            }
#endif
    for (int64_t byte = 0; byte < element; byte++)
        for (int64_t row = done; row < count; row++)
            to[byte * plane + row] = from[row * element + byte];
}
