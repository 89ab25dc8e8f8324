/* Plain lines of a table to rows: the common case of shmlease.text.parser, compiled.

   A line is plain when every cell of it is: a string that fits its field, an integer in range, a decimal with or without an
   exponent that a float64 holds exactly before it is scaled. Such a line is written to the row of its number. Every other line
   (a comment, a blank one, a missing value, an error, bytes that are none of the encoding) is listed, and read by Python
   afterwards. Nothing here decides what an odd line means.

   Where a quoted cell holds line ends, a line is a record of several. Where one is not closed, or text follows it, or lines
   that quotes join have the wrong number of cells, it depends on the schema what is a record, and Python reads the whole text.

   What costs time is waiting: for a branch that was guessed wrong, and for one cell to end before the next can begin. So the
   ends of cells are found 64 bytes at once, whatever is in them, and a number of up to eight characters is read as one word.

   No library is called, not even C's own: one file runs with every Python, and every libc. Compiled by hatch_build.py, on
   machines whose lowest byte comes first. */

#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifndef SOURCE_CRC32
#define SOURCE_CRC32 0
#endif

/* Which source this was compiled from; the loader passes over a library that is not of the source beside it. */
const uint32_t shmlease_source_crc32 = SOURCE_CRC32;

enum kind { SKIPPED, STRING, SIGNED, UNSIGNED, FLOAT };

struct cell {       /* as shmlease.text.native_parser lays it out */
    int64_t kind;   /* enum kind */
    int64_t size;   /* of the value, in bytes */
    int64_t offset; /* of the value in its row */
    int64_t exact;  /* whether a number with a leading zero is not plain */
};

struct line {
    int64_t row, start, end;
    int64_t line_ends; /* before it, those in quoted cells included */
};

enum encoding { ASCII, ANY_BYTE, UTF_8 };
enum { NO_QUOTE = -1 };

/* Integers up to EXACT, and powers of ten up to MOST_POWER, are float64 numbers: their product or quotient is rounded once, as
   strtod rounds (Clinger 1990). MOST_DIGITS digits fit int64. */
#define EXACT (INT64_C(1) << 53)
#define MOST_POWER 22
#define MOST_DIGITS 18
static const double POWERS[MOST_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* --- words of eight bytes, the first byte of the text the lowest --------------------------------------------------------- */

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline uint64_t load8(const uint8_t *from)
{
    uint64_t bytes;
    __builtin_memcpy(&bytes, from, 8);
    return bytes;
}

static inline void store(uint8_t *to, uint64_t bits, int64_t size)
{
    switch (size) {
    case 8: __builtin_memcpy(to, &bits, 8); break;
    case 4: __builtin_memcpy(to, &bits, 4); break;
    case 2: __builtin_memcpy(to, &bits, 2); break;
    default: *to = (uint8_t)bits;
    }
}

/* The high bit of each byte that is `byte`, and of no other. */
static inline uint64_t marks_of(uint64_t bytes, uint8_t byte)
{
    uint64_t apart = bytes ^ EACH(byte);
    return ~(((apart & EACH(0x7f)) + EACH(0x7f)) | apart | EACH(0x7f));
}

#ifndef __SSE2__
/* The high bits of a word as its lowest eight bits. */
static inline uint64_t side_by_side(uint64_t marks)
{
    return (marks >> 7) * UINT64_C(0x0102040810204080) >> 56;
}
#endif

/* The first `count` bytes of a word, 0 to 8. */
static inline uint64_t first(uint64_t bytes, int64_t count)
{
    return count >= 8 ? bytes : bytes & ((UINT64_C(1) << 8 * count) - 1);
}

/* Eight digits, less '0' each, to their number. */
static inline uint64_t joined(uint64_t digits)
{
    digits = (digits * (10 * 256 + 1) >> 8) & UINT64_C(0x00ff00ff00ff00ff); /* by twos, fours, eight */
    digits = (digits * (100 * 65536 + 1) >> 16) & UINT64_C(0x0000ffff0000ffff);
    return digits * (UINT64_C(10000) * 4294967296 + 1) >> 32;
}

/* --- where cells end ----------------------------------------------------------------------------------------------------- */

struct scan {
    const uint8_t *block, *end; /* 64 bytes that were searched, and the end of the text */
    uint64_t marks;             /* a bit for each end of a cell in the block that was not given yet */
    uint64_t quotes;            /* a bit for each quote in the block, whatever it means */
    const uint8_t *high;        /* all bytes from here on that were searched are below 128 */
    int64_t line_ends;          /* in the quoted cells so far */
    int quote;                  /* or NO_QUOTE */
    uint8_t delimiter;
};

static void search(struct scan *scan)
{
    uint8_t tail[64];
    const uint8_t *from = scan->block;
    if (scan->end - from < 64) {
        for (int place = 0; place < 64; place++)
            tail[place] = from + place < scan->end ? from[place] : 0;
        from = tail;
    }
    uint64_t marks = 0, quotes = 0, high = 0;
#ifdef __SSE2__
    const __m128i delimiter = _mm_set1_epi8((char)scan->delimiter), newline = _mm_set1_epi8('\n');
    const __m128i quote = _mm_set1_epi8((char)scan->quote);
    for (int place = 0; place < 64; place += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(from + place));
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(bytes, delimiter), _mm_cmpeq_epi8(bytes, newline));
        marks |= (uint64_t)_mm_movemask_epi8(found) << place;
        quotes |= (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, quote)) << place;
        high |= (uint64_t)_mm_movemask_epi8(bytes);
    }
#else
    for (int place = 0; place < 64; place += 8) {
        uint64_t bytes = load8(from + place), found = marks_of(bytes, scan->delimiter) | marks_of(bytes, '\n');
        marks |= side_by_side(found) << place;
        quotes |= side_by_side(marks_of(bytes, (uint8_t)scan->quote)) << place;
        high |= bytes & EACH(0x80);
    }
#endif
    scan->marks = marks;
    scan->quotes = quotes;
    if (high)
        scan->high = scan->block + 64;
}

static inline const uint8_t *next_end(struct scan *scan)
{
    while (!scan->marks) {
        scan->block += 64;
        search(scan);
    }
    const uint8_t *found = scan->block + __builtin_ctzll(scan->marks);
    scan->marks &= scan->marks - 1;
    return found;
}

/* The quote that closes the cell which the one at `at` opens, or the end of the text; ends of cells in it are passed over. */
static const uint8_t *closing_quote(struct scan *scan, const uint8_t *at, int *is_doubled)
{
    uint64_t passed = 0;
    const uint8_t *from = at + 1;
    for (;;) {
        for (; from - scan->block >= 64; search(scan)) {
            passed |= scan->marks;
            scan->block += 64;
        }
        uint64_t found = scan->quotes & ~UINT64_C(0) << (from - scan->block);
        if (!found) {
            from = scan->block + 64;
            if (from >= scan->end)
                return scan->end;
            continue;
        }
        const uint8_t *quote = scan->block + __builtin_ctzll(found);
        if (quote >= scan->end)
            return scan->end;
        if (quote[1] == *quote) {
            *is_doubled = 1;
            from = quote + 2;
            continue;
        }
        uint64_t before = (found & -found) - 1;
        passed |= scan->marks & before;
        scan->marks &= ~before;
        for (; passed && at < quote; at++)
            scan->line_ends += *at == '\n';
        return quote;
    }
}

/* A cell: its value, and the delimiter or line end behind it. */
struct found {
    const uint8_t *begin, *stop, *end;
    int is_quoted, is_doubled; /* within quotes; with doubled quotes in it */
};

enum outcome { WHOLE, OPEN, MALFORMED };

static inline enum outcome next_cell(struct scan *scan, const uint8_t *at, struct found *cell)
{
    cell->is_quoted = *at == scan->quote;
    cell->is_doubled = 0;
    if (cell->is_quoted) {
        cell->begin = at + 1;
        cell->stop = closing_quote(scan, at, &cell->is_doubled);
        if (cell->stop == scan->end)
            return OPEN;
        cell->end = next_end(scan);
        int is_last = cell->stop[1] == '\r' && *cell->end == '\n';
        return cell->end == cell->stop + 1 + is_last ? WHOLE : MALFORMED;
    }
    cell->begin = at;
    cell->end = next_end(scan);
    cell->stop = cell->end - (*cell->end == '\n' && cell->end > at && cell->end[-1] == '\r');
    return WHOLE;
}

/* Whether the bytes from `at` to `end` are UTF-8, as RFC 3629 has it: the shortest form, no surrogates, up to U+10FFFF. */
static int is_utf8(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        if (end - at >= 8 && !(load8(at) & EACH(0x80))) {
            at += 8;
            continue;
        }
        uint8_t lead = *at++;
        if (lead < 0x80)
            continue;
        int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || end - at < more)
            return 0;
        uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80, most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (*at < least || *at > most)
            return 0;
        for (int place = 1; place < more; place++)
            if ((at[place] & 0xc0) != 0x80)
                return 0;
        at += more;
    }
    return 1;
}

static int is_encoded(const struct scan *scan, const uint8_t *at, const uint8_t *end, enum encoding encoding)
{
    uint8_t seen = 0;
    if (encoding == ANY_BYTE || at >= scan->high)
        return 1;
    if (encoding == UTF_8)
        return is_utf8(at, end);
    for (; at < end; at++)
        seen |= *at;
    return seen < 128;
}

/* --- cells --------------------------------------------------------------------------------------------------------------- */

static inline void store_string(const uint8_t *at, int64_t length, const struct scan *scan, uint8_t *to, int64_t size)
{
    int64_t place = 0;
    for (; size - place >= 8 && scan->end - at >= place + 8; place += 8)
        store(to + place, place < length ? first(load8(at + place), length - place) : 0, 8);
    for (; place < size; place++)
        to[place] = place < length ? at[place] : 0;
}

/* A string with doubled quotes in it; whether it fits. */
static int store_unquoted(const uint8_t *at, const uint8_t *stop, uint8_t quote, uint8_t *to, int64_t size)
{
    int64_t place = 0;
    for (; at < stop; at++) {
        if (place == size)
            return 0;
        to[place++] = *at;
        at += *at == quote;
    }
    for (; place < size; place++)
        to[place] = 0;
    return 1;
}

static inline int store_integer(uint64_t whole, int negative, const struct cell *cell, uint8_t *to)
{
    int is_unsigned = cell->kind == UNSIGNED;
    uint64_t most = (~UINT64_C(0) >> (64 - 8 * cell->size + !is_unsigned)) + (negative && !is_unsigned);
    if (whole > most || (negative && is_unsigned))
        return 0;
    store(to, negative ? -whole : whole, cell->size);
    return 1;
}

static inline int store_float(uint64_t whole, int64_t scale, int negative, const struct cell *cell, uint8_t *to)
{
    if (whole > EXACT || scale < -MOST_POWER || scale > MOST_POWER)
        return 0;
    double value = (double)(int64_t)whole;
    value = scale > 0 ? value * POWERS[scale] : value / POWERS[-scale];
    value = negative ? -value : value;
    union { double value; uint64_t bits; } eight = {value};
    union { float value; uint32_t bits; } four = {(float)value};
    store(to, cell->size == 4 ? four.bits : eight.bits, cell->size);
    return 1;
}

/* The digits from `at` on, joined to *whole; returns where they end. That they are too many shows by their number. */
static inline const uint8_t *digits(const uint8_t *at, uint64_t *whole)
{
    uint8_t digit;
    for (; (digit = (uint8_t)(*at - '0')) <= 9; at++)
        *whole = *whole * 10 + digit;
    return at;
}

/* A number of any form, from `at` to a byte at `end` that is part of none; whether it was plain, and is stored. */
static int store_long_number(const uint8_t *at, const uint8_t *end, const struct cell *cell, uint8_t *to)
{
    uint64_t whole = 0;
    int64_t scale = 0;
    while (at < end && *at == ' ')
        at++;
    int negative = *at == '-';
    at += negative || *at == '+';
    const uint8_t *begin = at;
    at = digits(at, &whole);
    int64_t count = at - begin;
    if (cell->kind == FLOAT && *at == '.') {
        begin = ++at;
        at = digits(at, &whole);
        scale = begin - at;
        count -= scale;
    }
    if (cell->kind == FLOAT && (*at | 32) == 'e') {
        uint64_t exponent = 0;
        int down = *++at == '-';
        at += down || *at == '+';
        begin = at;
        at = digits(at, &exponent);
        if (at == begin || at - begin > 3)
            return 0;
        scale += down ? -(int64_t)exponent : (int64_t)exponent;
    }
    while (at < end && *at == ' ')
        at++;
    if (at != end || count < 1 || count > MOST_DIGITS)
        return 0;
    return cell->kind == FLOAT ? store_float(whole, scale, negative, cell, to) : store_integer(whole, negative, cell, to);
}

/* The same for what begins with a zero and another digit, or with a sign or a blank that may stand before such. */
static int store_exact_number(const uint8_t *at, const uint8_t *end, const struct cell *cell, uint8_t *to)
{
    const uint8_t *first = at;
    while (first < end && (*first == ' ' || *first == '-' || *first == '+'))
        first++;
    if (end - first > 1 && *first == '0' && (uint8_t)(first[1] - '0') <= 9)
        return 0;
    return store_long_number(at, end, cell, to);
}

static inline int store_number(const uint8_t *at, const uint8_t *end, const struct scan *scan, const struct cell *cell,
                               uint8_t *to)
{
    int64_t length = end - at;
    if (cell->exact && length > 1 && *at <= '0')
        return store_exact_number(at, end, cell, to);
    if (length < 1 || length > 8 || scan->end - at < 8)
        return store_long_number(at, end, cell, to);
    uint64_t text = load8(at);
    int64_t scale = 0;
    if (cell->kind == FLOAT) {
        uint64_t point = first(marks_of(text, '.'), length);
        int64_t before = point ? __builtin_ctzll(point) >> 3 : length; /* digits, and the point is taken out behind them */
        text = first(text, before) | (before < 8 ? text >> 8 & ~UINT64_C(0) << 8 * before : 0);
        length -= point != 0;
        scale = before - length;
        if (length == 0)
            return 0;
    }
    text = (text ^ EACH('0')) << (64 - 8 * length); /* the places before the first digit become zeros */
    if (((text + EACH(0x76)) | text) & EACH(0x80)) /* 0x76 + 10 is 0x80 */
        return store_long_number(at, end, cell, to);
    uint64_t whole = joined(text);
    return cell->kind == FLOAT ? store_float(whole, scale, 0, cell, to) : store_integer(whole, 0, cell, to);
}

int64_t shmlease_count(const uint8_t *text, int64_t size, uint8_t byte)
{
    const uint8_t *at = text, *end = text + size;
    int64_t count = 0;
#ifdef __SSE2__
    const __m128i wanted = _mm_set1_epi8((char)byte);
    for (; end - at >= 64; at += 64) {
        __m128i sum = _mm_setzero_si128(); /* of -1 for each found, in 16 bytes */
        for (int place = 0; place < 64; place += 16)
            sum = _mm_sub_epi8(sum, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(at + place)), wanted));
        sum = _mm_sad_epu8(sum, _mm_setzero_si128());
        count += _mm_cvtsi128_si64(sum) + _mm_cvtsi128_si64(_mm_srli_si128(sum, 8));
    }
#else
    for (; end - at >= 8; at += 8)
        count += (marks_of(load8(at), byte) >> 7) * EACH(1) >> 56; /* the sum of the eight bytes */
#endif
    for (; at < end; at++)
        count += *at == byte;
    return count;
}

/* --- lines --------------------------------------------------------------------------------------------------------------- */

static inline int store_cell(const struct found *found, const struct scan *scan, const struct cell *cell, uint8_t *to)
{
    if (cell->kind == SKIPPED)
        return 1;
    if (cell->kind > STRING)
        return store_number(found->begin, found->stop, scan, cell, to);
    if (found->is_doubled)
        return store_unquoted(found->begin, found->stop, (uint8_t)scan->quote, to, cell->size);
    if (found->stop - found->begin > cell->size)
        return 0;
    store_string(found->begin, found->stop - found->begin, scan, to, cell->size);
    return 1;
}

/* Reads `size` bytes of text, whole records of `width` cells, the last with its line end; the delimiter is none.

   Rows go to `rows`, `row_bytes` each, of which there is room for `row_room`. `begins_comment` has a flag for each byte that
   may begin a comment. A quoted cell is `longest` bytes at most. Lines that are not plain go to `odd`. Returns how many those
   are, and in *lines how many all are; or -1 when there are more than `odd_room`, or more lines than `row_room`, or when
   quotes leave open what the lines are. */
int64_t shmlease_read_lines(const uint8_t *text, int64_t size, uint8_t delimiter, int64_t quote, int64_t longest,
                             int64_t width, const struct cell *cells, const uint8_t *begins_comment, int64_t encoding,
                             uint8_t *rows, int64_t row_bytes, int64_t row_room, struct line *odd, int64_t odd_room,
                             int64_t *lines)
{
    struct scan scan = {text, text + size, 0, 0, text, 0, (int)quote, delimiter};
    const uint8_t *at = text;
    int64_t row = 0, count = 0;
    if (size > 0)
        search(&scan);
    for (; at < scan.end; row++, rows += row_bytes) {
        if (row == row_room)
            return -1;
        const uint8_t *start = at;
        struct found found;
        int64_t column = 0, line_ends = scan.line_ends;
        int plain = !begins_comment[*at], is_row = plain;
        do {
            if (next_cell(&scan, at, &found) != WHOLE || (found.is_quoted && found.stop - at > longest))
                return -1;
            if (plain && column < width)
                plain = store_cell(&found, &scan, cells + column, rows + cells[column].offset);
            column++;
            at = found.end + 1;
        } while (*found.end != '\n');
        if (scan.line_ends > line_ends && (!is_row || column != width))
            return -1;
        plain = plain && column == width && (width > 1 || found.is_quoted || found.stop > start);
        if (!plain || !is_encoded(&scan, start, found.end, encoding)) {
            if (count == odd_room)
                return -1;
            odd[count].row = row;
            odd[count].start = start - text;
            odd[count].end = at - text;
            odd[count].line_ends = row + line_ends;
            count++;
        }
    }
    *lines = row;
    return count;
}

/* Where the last whole record of a text ends that begins with a record and ends with a line end; -1 when it takes Python to
   tell. */
int64_t shmlease_last_record_end(const uint8_t *text, int64_t size, uint8_t delimiter, int64_t quote, int64_t longest,
                                  int64_t width, const uint8_t *begins_comment)
{
    struct scan scan = {text, text + size, 0, 0, text, 0, (int)quote, delimiter};
    const uint8_t *at = text;
    if (size > 0)
        search(&scan);
    while (at < scan.end) {
        const uint8_t *start = at;
        struct found found;
        int64_t column = 0, line_ends = scan.line_ends;
        do {
            enum outcome outcome = next_cell(&scan, at, &found);
            if (outcome == MALFORMED || (found.is_quoted && found.stop - at > longest))
                return -1;
            if (outcome == OPEN)
                return begins_comment[*start] ? -1 : start - text;
            column++;
            at = found.end + 1;
        } while (*found.end != '\n');
        if (scan.line_ends > line_ends && (begins_comment[*start] || column != width))
            return -1;
    }
    return size;
}
