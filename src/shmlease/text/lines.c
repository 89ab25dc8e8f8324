/* Plain lines of a table to rows: the common case of shmlease.text.parser, compiled.

   A line is plain when every cell of it is: a string that fits its field, an integer in range, a decimal with or without an
   exponent that a float64 holds exactly before it is scaled. Such a line is written to the row of its number. Every other line
   (a comment, a blank one, a missing value, an error, bytes that are none of the encoding) is listed, and read by Python
   afterwards. Nothing here decides what an odd line means.

   Where a quoted cell holds line ends, a line is a record of several. Where one is not closed, or text follows it, or lines
   that quotes join have the wrong number of cells, it depends on the schema what is a record, and Python reads the whole text.

   What costs time is waiting: for a branch that was guessed wrong, and for one step to end before the next can begin. So some
   hundred lines are read at once, in two steps. First the ends of cells are listed, found 64 bytes at once, whatever is in
   them. Then the rows are filled column by column, by a loop for each kind of cell, in which no row waits for another. A
   number of up to eight digits is one word, and the digits of several rows are joined to numbers at once.

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

/* Lines that are read at once: few enough for their text, the ends of their cells and their rows to stay in a cache. Up to 63
   more end in the same 64 bytes. */
#define MOST_LINES 256
#define LINE_ROOM (MOST_LINES + 64)

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
#define NEGATIVE (MOST_POWER + 1) /* from there on, the same below 0 */
static const double POWERS[2 * NEGATIVE] = {
    1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,   1e8,   1e9,   1e10,  1e11,  1e12,  1e13,  1e14,  1e15,
    1e16,  1e17,  1e18,  1e19,  1e20,  1e21,  1e22,  -1e0,  -1e1,  -1e2,  -1e3,  -1e4,  -1e5,  -1e6,  -1e7,  -1e8,
    -1e9,  -1e10, -1e11, -1e12, -1e13, -1e14, -1e15, -1e16, -1e17, -1e18, -1e19, -1e20, -1e21, -1e22,
};

/* Makes of a function with a constant argument one without it. */
#define SPECIALIZED static inline __attribute__((always_inline))

/* For functions whose loop needs all registers. */
#define NOT_INLINE __attribute__((noinline))

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

/* The first `count` bytes of a word: none below 1, all from 8 on. */
static inline uint64_t first(uint64_t bytes, int64_t count)
{
    static const uint8_t MASKS[16] = {255, 255, 255, 255, 255, 255, 255, 255};
    count &= ~(count >> 63); /* at least 0, and without a branch, since lengths are hard to guess */
    int64_t more = 8 - count;
    return bytes & load8(MASKS + (more & ~(more >> 63)));
}

/* The digits before `end`, `count` of them, 1 to 8, less '0' each; the places before the first become zeros. */
static inline uint64_t digits_before(const uint8_t *end, int64_t count)
{
    static const uint8_t MASKS[16] = {0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255};
    return (load8(end - 8) ^ EACH('0')) & load8(MASKS + count);
}

/* Whether there is nothing but digits; 0x76 + 10 is 0x80. */
static inline int are_digits(uint64_t digits)
{
    return !(((digits + EACH(0x76)) | digits) & EACH(0x80));
}

/* Eight digits, less '0' each, to their number. */
static inline uint64_t joined(uint64_t digits)
{
    digits = (digits * (10 * 256 + 1) >> 8) & UINT64_C(0x00ff00ff00ff00ff); /* by twos, fours, eight */
    digits = (digits * (100 * 65536 + 1) >> 16) & UINT64_C(0x0000ffff0000ffff);
    return digits * (UINT64_C(10000) * 4294967296 + 1) >> 32;
}

/* --- where cells end ----------------------------------------------------------------------------------------------------- */

struct text {
    const uint8_t *bytes;
    int64_t size;
    uint8_t delimiter;
    int quote;                     /* or NO_QUOTE */
    int64_t longest;               /* bytes of a quoted cell */
    int64_t width;                 /* cells of a row */
    const uint8_t *begins_comment; /* a flag for each byte */
};

/* A bit for each of 64 bytes. */
struct block {
    uint64_t ends, newlines; /* of cells; of lines, which are in `ends` as well */
    uint64_t quotes;         /* whatever they mean */
    int is_high;             /* bytes from 128 on are among them */
};

static inline struct block search(const struct text *text, int64_t at)
{
    struct block block = {0, 0, 0, 0};
    uint8_t tail[64];
    const uint8_t *from = text->bytes + at;
    if (text->size - at < 64) {
        for (int place = 0; place < 64; place++)
            tail[place] = at + place < text->size ? from[place] : 0;
        from = tail;
    }
#ifdef __SSE2__
    const __m128i delimiter = _mm_set1_epi8((char)text->delimiter), newline = _mm_set1_epi8('\n');
    __m128i high = _mm_setzero_si128();
    for (int place = 0; place < 64; place += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(from + place)), newlines = _mm_cmpeq_epi8(bytes, newline);
        block.ends |= (uint64_t)_mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(bytes, delimiter), newlines)) << place;
        block.newlines |= (uint64_t)_mm_movemask_epi8(newlines) << place;
        high = _mm_or_si128(high, bytes);
    }
    block.is_high = _mm_movemask_epi8(high) != 0;
    for (int place = 0; text->quote != NO_QUOTE && place < 64; place += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(from + place));
        block.quotes |= (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8((char)text->quote))) << place;
    }
#else
    for (int place = 0; place < 64; place += 8) {
        uint64_t bytes = load8(from + place), newlines = marks_of(bytes, '\n');
        block.ends |= side_by_side(marks_of(bytes, text->delimiter) | newlines) << place;
        block.newlines |= side_by_side(newlines) << place;
        block.is_high |= (bytes & EACH(0x80)) != 0;
        if (text->quote != NO_QUOTE)
            block.quotes |= side_by_side(marks_of(bytes, (uint8_t)text->quote)) << place;
    }
#endif
    uint64_t inside = text->size - at < 64 ? (UINT64_C(1) << (text->size - at)) - 1 : ~UINT64_C(0);
    block.ends &= inside;
    block.quotes &= inside;
    return block;
}

/* What is known of quotes where a block begins. */
struct quotes {
    int64_t opened;       /* where the quoted cell begins that is not closed, or -1 */
    uint64_t begins_cell; /* 1 when the byte before ended a cell */
    uint64_t is_passed;   /* 1 when the first byte is the second of a doubled quote */
};

enum outcome { WHOLE, OPEN, MALFORMED };

/* Leaves those ends of cells in a block that are outside of quotes; MALFORMED when it takes Python to tell which. */
static enum outcome follow_quotes(const struct text *text, int64_t at, struct block *block, struct quotes *quotes)
{
    uint64_t outside = 0, ahead = ~quotes->is_passed; /* bytes that were not looked at yet */
    quotes->is_passed = 0;
    for (;;) {
        if (quotes->opened < 0) {
            uint64_t opening = block->quotes & ahead & (block->ends << 1 | quotes->begins_cell), lowest = opening & -opening;
            outside |= block->ends & ahead & (lowest - 1);
            if (!opening)
                break;
            quotes->opened = at + __builtin_ctzll(opening);
            ahead = -lowest << 1;
        }
        uint64_t closing = block->quotes & ahead, lowest = closing & -closing;
        if (!closing)
            break;
        int64_t place = at + __builtin_ctzll(closing);
        const uint8_t *next = text->bytes + place + 1; /* which is there, since no quote is the last byte of the text */
        ahead = -lowest << 1;
        if (*next == text->quote) {
            quotes->is_passed = lowest >> 63;
            ahead <<= 1;
            continue;
        }
        next += *next == '\r' && *next != text->delimiter && next[1] == '\n';
        if ((*next != text->delimiter && *next != '\n') || place - quotes->opened > text->longest)
            return MALFORMED;
        quotes->opened = -1;
    }
    quotes->begins_cell = outside >> 63;
    block->ends = outside;
    block->newlines &= outside;
    return WHOLE;
}

/* Whole lines, and the places in the text where they and their cells end. */
struct stretch {
    int64_t start, end;        /* of the lines */
    uint32_t lines[LINE_ROOM]; /* the ends of lines */
    int64_t line_count;
    uint32_t *cells, *cells_end; /* the ends of cells, the end of the one before them the first */
    int64_t cell_room;           /* for eight lines at least; one less than 64 are written behind */
    int is_high;                 /* bytes from 128 on are among them, or close behind */
};

/* Lists what ends in the text from stretch->start on, and sets stretch->end. OPEN when a quoted cell is still open at the end
   of the text, behind these lines. */
static enum outcome find_ends(const struct text *text, struct stretch *stretch)
{
    struct quotes quotes = {-1, 1, 0};
    uint32_t *cell = stretch->cells, *const full = cell + stretch->cell_room, *line = stretch->lines;
    int64_t at = stretch->start;
    *cell++ = (uint32_t)(at - 1);
    stretch->is_high = 0;
    for (; at < text->size; at += 64) {
        struct block block = search(text, at);
        if (!block.quotes && quotes.opened < 0)
            quotes.begins_cell = block.ends >> 63;
        else if (follow_quotes(text, at, &block, &quotes) == MALFORMED)
            return MALFORMED;
        for (; block.ends; block.ends &= block.ends - 1)
            *cell++ = (uint32_t)(at + __builtin_ctzll(block.ends));
        for (; block.newlines; block.newlines &= block.newlines - 1)
            *line++ = (uint32_t)(at + __builtin_ctzll(block.newlines));
        stretch->is_high |= block.is_high;
        if (line - stretch->lines >= MOST_LINES || (cell >= full && line > stretch->lines))
            break;
        if (cell >= full) /* a line of too many cells: its first are kept, which are enough to see that, and its end */
            cell = stretch->cells + 1 + text->width;
    }
    stretch->cells_end = cell;
    stretch->line_count = line - stretch->lines;
    stretch->end = stretch->line_count ? (int64_t)line[-1] + 1 : stretch->start;
    return at >= text->size && quotes.opened >= 0 ? OPEN : WHOLE;
}

/* Whether the bytes from `at` to `end` are UTF-8, as RFC 3629 has it: the shortest form, no surrogates, up to U+10FFFF. */
static int is_utf8(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        if (end - at >= 8) {
            uint64_t high = load8(at) & EACH(0x80);
            at += high ? __builtin_ctzll(high) >> 3 : 8;
            if (!high)
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

static int is_encoded(const uint8_t *at, const uint8_t *end, enum encoding encoding)
{
    uint8_t seen = 0;
    if (encoding == ANY_BYTE)
        return 1;
    if (encoding == UTF_8)
        return is_utf8(at, end);
    for (; at < end; at++)
        seen |= *at;
    return seen < 128;
}

/* --- cells --------------------------------------------------------------------------------------------------------------- */

/* Copies a string and fills up with NUL bytes. */
static inline void store_string(const uint8_t *at, int64_t length, const uint8_t *end, uint8_t *to, int64_t size)
{
    int64_t place = 0;
    if (end - at < size + 7) {
        for (; place < size; place++)
            to[place] = place < length ? at[place] : 0;
        return;
    }
    for (; place <= size - 8; place += 8)
        store(to + place, first(load8(at + place), length - place), 8);
    if (size % 8 == 0)
        return;
    uint64_t bytes = first(load8(at + place), length - place);
    for (int64_t part = 4; part; part /= 2)
        if (size & part) {
            store(to + place, bytes, part);
            bytes >>= 8 * part;
            place += part;
        }
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

static inline int has_byte(const uint8_t *at, const uint8_t *stop, const uint8_t *end, uint8_t byte)
{
    for (; end - at >= 8 && at < stop; at += 8)
        if (first(marks_of(load8(at), byte), stop - at))
            return 1;
    for (; at < stop; at++)
        if (*at == byte)
            return 1;
    return 0;
}

/* The largest integer of a cell; below 0, signed ones go one further. */
static inline uint64_t most(const struct cell *cell)
{
    return ~UINT64_C(0) >> (64 - 8 * cell->size + (cell->kind == SIGNED));
}

static inline int store_integer(uint64_t whole, int negative, const struct cell *cell, uint8_t *to)
{
    if (whole > most(cell) + (uint64_t)negative || (negative && cell->kind == UNSIGNED))
        return 0;
    store(to, negative ? -whole : whole, cell->size);
    return 1;
}

static inline void store_double(double value, int64_t size, uint8_t *to)
{
    union { double value; uint64_t bits; } eight = {value};
    union { float value; uint32_t bits; } four = {(float)value};
    store(to, size == 4 ? four.bits : eight.bits, size);
}

static inline int store_float(uint64_t whole, int64_t scale, int negative, const struct cell *cell, uint8_t *to)
{
    if (whole > EXACT || scale < -MOST_POWER || scale > MOST_POWER)
        return 0;
    double value = (double)(int64_t)whole;
    value = scale > 0 ? value * POWERS[scale] : value / POWERS[-scale];
    store_double(negative ? -value : value, cell->size, to);
    return 1;
}

/* The digits from `at` on, joined to *whole; returns where they end. That they are too many shows by their number. */
static inline const uint8_t *read_digits(const uint8_t *at, uint64_t *whole)
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
    at = read_digits(at, &whole);
    int64_t count = at - begin;
    if (cell->kind == FLOAT && *at == '.') {
        begin = ++at;
        at = read_digits(at, &whole);
        scale = begin - at;
        count -= scale;
    }
    if (cell->kind == FLOAT && (*at | 32) == 'e') {
        uint64_t exponent = 0;
        int down = *++at == '-';
        at += down || *at == '+';
        begin = at;
        at = read_digits(at, &exponent);
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

/* Takes the decimal point out of up to eight digits, less '0' each; returns how many digits follow it. */
static inline int64_t take_point(uint64_t *digits, int *has_point)
{
    uint64_t apart = *digits ^ EACH('.' ^ '0');
    uint64_t found = (apart - EACH(1)) & ~apart & EACH(0x80); /* the lowest is a point, if there is any */
    uint64_t place = (found & -found) >> 7;
    *digits ^= place * ('.' ^ '0');
    uint64_t before = *digits & (place - (place != 0));
    *digits += (before << 8) - before;
    *has_point = place != 0;
    return 7 - (__builtin_ctzll(place | UINT64_C(1) << 63) >> 3);
}

/* A number of up to sixteen characters, without its sign and its point. */
struct number {
    uint64_t digits;  /* the last, up to eight, less '0' each */
    uint64_t high;    /* what those before stand for; 0 when there are none */
    int64_t fraction; /* how many digits follow the point */
};

/* Takes a number apart; whether it may be one, which shows when its last digits are joined. */
SPECIALIZED int take_apart(const uint8_t *stop, int64_t length, int is_float, struct number *number)
{
    int has_point = 0, has_early_point = 0;
    *number = (struct number){digits_before(stop, length < 8 ? length : 8), 0, 0};
    if (is_float)
        number->fraction = take_point(&number->digits, &has_point);
    if (length <= 8)
        return length > has_point;
    uint64_t high = digits_before(stop - 8, length - 8);
    if (is_float) {
        int64_t fraction = take_point(&high, &has_early_point);
        number->fraction += has_early_point ? fraction + 8 : 0;
    }
    number->high = joined(high) * (has_point ? 10000000 : 100000000);
    return are_digits(high) && !(has_point && has_early_point) && (!is_float || number->high < EXACT - 100000000);
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

/* --- columns ------------------------------------------------------------------------------------------------------------- */

/* Rows one after another, filled from lines that have their number of cells; or one column of them. */
struct rows {
    struct text text;
    const uint32_t *ends; /* of cells, as in a stretch; the cell of row n is between n * width and the next */
    int64_t width, count, row_bytes;
    uint8_t *to, *odd; /* the values; for each row, whether its line is odd */
    int cr;            /* 1 when the cells end with CR that is none of them: the last, where lines end with CR LF */
};

static inline const uint8_t *cell_of(const struct rows *column, const uint32_t *ends, const uint8_t **stop)
{
    *stop = column->text.bytes + ends[1] - column->cr;
    return column->text.bytes + (uint32_t)(ends[0] + 1);
}

/* The same without quotes. */
static inline const uint8_t *value_of(const struct rows *column, const uint32_t *ends, const uint8_t **stop)
{
    const uint8_t *at = cell_of(column, ends, stop);
    int is_quoted = *at == column->text.quote;
    *stop -= is_quoted;
    return at + is_quoted;
}

static NOT_INLINE void store_strings(struct rows column, const struct cell *cell)
{
    const uint8_t *end = column.text.bytes + column.text.size, *stop;
    const int64_t size = cell->size;
    const int quote = column.text.quote;
    uint8_t *to = column.to;
    for (int64_t row = 0; row < column.count; row++, to += column.row_bytes, column.ends += column.width) {
        const uint8_t *at = cell_of(&column, column.ends, &stop);
        if (*at == quote) {
            at++;
            stop--;
            if (has_byte(at, stop, end, (uint8_t)quote)) {
                column.odd[row] |= !store_unquoted(at, stop, (uint8_t)quote, to, size);
                continue;
            }
        }
        if (stop - at > size)
            column.odd[row] = 1;
        else
            store_string(at, stop - at, end, to, size);
    }
}

/* The numbers of a column. */
struct numbers {
    uint64_t digits[LINE_ROOM], high[LINE_ROOM]; /* as in struct number; then the digits are joined */
    uint8_t scale[LINE_ROOM];                    /* which of POWERS to divide by */
    uint32_t long_ones[LINE_ROOM];               /* rows with numbers of any other form, for store_long_number */
    int64_t long_count;
};

/* Joins the digits of each row, of four at once where that can be. */
static inline void join_digits(struct numbers *numbers, int64_t count)
{
    uint64_t *digits = numbers->digits;
    for (int64_t row = 0, step; row < count; row += step) {
        step = 1;
#ifdef __SSE2__
        if (row + 4 <= count) {
            const __m128i above = _mm_set1_epi8(0x76), tens = _mm_set1_epi16(10 * 256 + 1), zero = _mm_setzero_si128();
            const __m128i hundreds = _mm_set1_epi32(100 + 65536), myriads = _mm_set1_epi32(10000 + 65536);
            __m128i *two = (__m128i *)(digits + row), a = _mm_loadu_si128(two), b = _mm_loadu_si128(two + 1);
            if (!_mm_movemask_epi8(_mm_or_si128(_mm_adds_epu8(a, above), _mm_adds_epu8(b, above)))) {
                a = _mm_madd_epi16(_mm_srli_epi16(_mm_mullo_epi16(a, tens), 8), hundreds);
                b = _mm_madd_epi16(_mm_srli_epi16(_mm_mullo_epi16(b, tens), 8), hundreds);
                a = _mm_madd_epi16(_mm_packs_epi32(a, b), myriads);
                _mm_storeu_si128(two, _mm_unpacklo_epi32(a, zero));
                _mm_storeu_si128(two + 1, _mm_unpackhi_epi32(a, zero));
                step = 4;
                continue;
            }
        }
#endif
        if (are_digits(digits[row]))
            digits[row] = joined(digits[row]);
        else {
            digits[row] = numbers->high[row] = 0;
            numbers->long_ones[numbers->long_count++] = (uint32_t)row;
        }
    }
}

SPECIALIZED void store_number(uint64_t whole, uint8_t scale, uint64_t most_plain, int64_t size, int is_float, uint8_t *to,
                              uint8_t *odd)
{
    if (is_float) {
        store_double((double)(int64_t)whole / POWERS[scale], size, to);
        return;
    }
    if (whole > most_plain + (scale != 0))
        *odd = 1;
    store(to, scale ? -whole : whole, size);
}

/* Fills a column with numbers. The first rows take fewer steps, until there is a sign, or a number of more than eight
   characters, or anything else. */
SPECIALIZED void store_numbers(struct rows column, const struct cell *cell, int is_float)
{
    const uint64_t most_plain = most(cell);
    const int64_t size = cell->size, exact = cell->exact;
    const int is_signed = cell->kind != UNSIGNED;
    const uint8_t *const least = column.text.bytes + 16, *stop; /* so much before the end of a cell is looked at */
    const uint32_t *ends = column.ends;
    int64_t row = 0, short_count;
    struct numbers numbers;
    numbers.long_count = 0;
    for (; row < column.count && !exact; row++, ends += column.width) {
        const uint8_t *at = cell_of(&column, ends, &stop);
        int has_point;
        if ((uint8_t)(*at - '0') > 9 || (uint64_t)(stop - at - 1) >= 8 || stop < least)
            break;
        numbers.digits[row] = digits_before(stop, stop - at);
        if (is_float)
            numbers.scale[row] = (uint8_t)take_point(&numbers.digits[row], &has_point);
    }
    for (short_count = row; row < column.count; row++, ends += column.width) {
        const uint8_t *at = value_of(&column, ends, &stop);
        int negative = (*at == '-') & is_signed;
        int64_t length = stop - at - negative;
        struct number number;
        if (length < 1 || length > 16 || stop < least || (exact && length > 1 && at[negative] <= '0') ||
            !take_apart(stop, length, is_float, &number)) {
            number = (struct number){0, 0, 0};
            numbers.long_ones[numbers.long_count++] = (uint32_t)row;
        }
        numbers.digits[row] = number.digits;
        numbers.high[row] = number.high;
        numbers.scale[row] = (uint8_t)(number.fraction + NEGATIVE * negative);
    }
    join_digits(&numbers, column.count);
    uint8_t *to = column.to;
    for (row = 0; row < short_count; row++, to += column.row_bytes)
        store_number(numbers.digits[row], is_float ? numbers.scale[row] : 0, most_plain, size, is_float, to, column.odd + row);
    for (; row < column.count; row++, to += column.row_bytes)
        store_number(numbers.high[row] + numbers.digits[row], numbers.scale[row], most_plain, size, is_float, to,
                     column.odd + row);
    for (int64_t each = 0; each < numbers.long_count; each++) {
        row = numbers.long_ones[each];
        const uint8_t *at = value_of(&column, column.ends + row * column.width, &stop);
        to = column.to + row * column.row_bytes;
        column.odd[row] |= !(exact ? store_exact_number(at, stop, cell, to) : store_long_number(at, stop, cell, to));
    }
}

static NOT_INLINE void store_integers(struct rows column, const struct cell *cell)
{
    store_numbers(column, cell, 0);
}

static NOT_INLINE void store_floats(struct rows column, const struct cell *cell)
{
    store_numbers(column, cell, 1);
}

static void store_rows(const struct rows *rows, const struct cell *cells)
{
    for (int64_t row = 0; row < rows->count; row++)
        rows->odd[row] = 0;
    for (int64_t place = 0; place < rows->width; place++) {
        const struct cell *cell = cells + place;
        struct rows column = *rows;
        column.ends += place;
        column.to += cell->offset;
        column.cr &= place == rows->width - 1;
        switch ((enum kind)cell->kind) {
        case SKIPPED: break;
        case STRING: store_strings(column, cell); break;
        case SIGNED:
        case UNSIGNED: store_integers(column, cell); break;
        case FLOAT: store_floats(column, cell);
        }
    }
}

/* --- lines --------------------------------------------------------------------------------------------------------------- */

static inline int has_cr(const struct text *text, int64_t at, int64_t end)
{
    return end > at && text->bytes[end - 1] == '\r' && text->delimiter != '\r';
}

/* Whether a line, from `at` to the newline at `end`, is a row; `cell` is the end of the cell before it in a stretch. */
static inline int is_row(const struct text *text, const struct stretch *stretch, int64_t at, int64_t end, const uint32_t *cell)
{
    return stretch->cells_end - cell > text->width && cell[text->width] == end && !text->begins_comment[text->bytes[at]] &&
           (text->width > 1 || at + has_cr(text, at, end) < end);
}

/* Lines that are not plain. */
struct odd {
    struct line *lines;
    int64_t count, room;
    int64_t counted, line_ends; /* the line ends before a place in the text */
};

static int list_odd(const struct text *text, struct odd *odd, int64_t row, int64_t at, int64_t end)
{
    if (odd->count == odd->room)
        return 0;
    odd->line_ends += shmlease_count(text->bytes + odd->counted, at - odd->counted, '\n');
    odd->counted = at;
    odd->lines[odd->count++] = (struct line){row, at, end + 1, odd->line_ends};
    return 1;
}

/* Reads `size` bytes of text, whole records of `width` cells, the last with its line end; the delimiter is none.

   Rows go to `rows`, `row_bytes` each, of which there is room for `row_room`. `begins_comment` has a flag for each byte that
   may begin a comment. A quoted cell is `longest` bytes at most. Lines that are not plain go to `odd_lines`. `ends` is memory
   to work with, room for the ends of the cells of eight rows and 64 more. Returns how many odd lines there are, and in *lines
   how many all are; or -1 when there are more than `odd_room`, or more lines than `row_room`, or when the text is 4 GiB or
   longer, or quotes leave open what the lines are. */
int64_t shmlease_read_lines(const uint8_t *bytes, int64_t size, uint8_t delimiter, int64_t quote, int64_t longest,
                             int64_t width, const struct cell *cells, const uint8_t *begins_comment, int64_t encoding,
                             uint8_t *rows, int64_t row_bytes, int64_t row_room, struct line *odd_lines, int64_t odd_room,
                             uint32_t *ends, int64_t end_room, int64_t *lines)
{
    const struct text text = {bytes, size, delimiter, (int)quote, longest, width, begins_comment};
    struct odd odd = {odd_lines, 0, odd_room, 0, 0};
    struct stretch stretch = {.end = 0, .cells = ends, .cell_room = end_room - 64};
    int64_t row = 0;
    if (size >> 32)
        return -1;
    while (stretch.end < size) {
        stretch.start = stretch.end;
        if (find_ends(&text, &stretch) != WHOLE || row + stretch.line_count > row_room)
            return -1;
        const uint32_t *cell = ends, *line = stretch.lines, *const lines_end = line + stretch.line_count;
        for (int64_t at = stretch.start; line < lines_end;) {
            if (!is_row(&text, &stretch, at, *line, cell)) {
                if (shmlease_count(bytes + at, *line - at, '\n') || !list_odd(&text, &odd, row++, at, *line))
                    return -1;
                while (*cell != *line)
                    cell++;
                at = (int64_t)*line++ + 1;
                continue;
            }
            uint8_t is_odd[LINE_ROOM];
            struct rows run = {text, cell, width, 0, row_bytes, rows + row * row_bytes, is_odd, has_cr(&text, at, *line)};
            int64_t start = at;
            do {
                at = (int64_t)line[run.count++] + 1;
                cell += width;
            } while (line + run.count < lines_end && is_row(&text, &stretch, at, line[run.count], cell) &&
                     has_cr(&text, at, line[run.count]) == run.cr);
            store_rows(&run, cells);
            int is_checked = !stretch.is_high || is_encoded(bytes + start, bytes + at, encoding);
            for (int64_t each = 0; each < run.count; each++, row++, start = (int64_t)*line++ + 1)
                if ((is_odd[each] || (!is_checked && !is_encoded(bytes + start, bytes + *line, encoding))) &&
                    !list_odd(&text, &odd, row, start, *line))
                    return -1;
        }
    }
    *lines = row;
    return odd.count;
}

/* Where the last whole record of a text ends that begins with a record and ends with a line end; -1 when it takes Python to
   tell. */
int64_t shmlease_last_record_end(const uint8_t *bytes, int64_t size, uint8_t delimiter, int64_t quote, int64_t longest,
                                  int64_t width, const uint8_t *begins_comment, uint32_t *ends, int64_t end_room)
{
    const struct text text = {bytes, size, delimiter, (int)quote, longest, width, begins_comment};
    struct stretch stretch = {.end = 0, .cells = ends, .cell_room = end_room - 64};
    if (size >> 32)
        return -1;
    while (stretch.end < size) {
        stretch.start = stretch.end;
        enum outcome outcome = find_ends(&text, &stretch);
        if (outcome == MALFORMED)
            return -1;
        const uint32_t *cell = ends, *line = stretch.lines;
        int64_t at = stretch.start;
        for (; at < stretch.end; at = (int64_t)*line++ + 1) {
            if (!is_row(&text, &stretch, at, *line, cell) && shmlease_count(bytes + at, *line - at, '\n'))
                return -1;
            while (*cell != *line)
                cell++;
        }
        if (outcome == OPEN)
            return begins_comment[bytes[at]] ? -1 : at;
    }
    return size;
}
