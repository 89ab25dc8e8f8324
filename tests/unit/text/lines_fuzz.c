/* Random text through lines.c, everything in memory of exactly its size: for a compiler that watches every access. */

#include "lines.c"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *LETTERS = "0123456789.eE+-\t\n\r ,abc\xc3\xa9#\"\"\"\"";
static const int SIZES[] = {1, 2, 4, 8};

static void one(int kind)
{
    int width = 1 + rand() % 5, size = 1 + rand() % 200;
    struct cell *cells = malloc(sizeof(struct cell) * width);
    int64_t row_bytes = 0, lines = 0, found = 0;
    for (int i = 0; i < width; i++) {
        cells[i].kind = rand() % 5;
        cells[i].size = cells[i].kind == STRING    ? 1 + rand() % 20
                        : cells[i].kind == FLOAT   ? SIZES[2 + rand() % 2]
                        : cells[i].kind == SKIPPED ? 0
                                                   : SIZES[rand() % 4];
        cells[i].offset = row_bytes;
        cells[i].exact = rand() % 2;
        row_bytes += cells[i].size;
    }
    uint8_t *text = malloc(size), *flags = calloc(256, 1);
    for (int i = 0; i < size; i++)
        text[i] = kind == 0 ? rand() % 256 : kind == 1 ? LETTERS[rand() % strlen(LETTERS)] : '0' + rand() % 10;
    for (int i = 0, ends = 0; kind >= 2 && i < size; i++)
        if (rand() % 4 == 0)
            text[i] = ++ends % width ? '\t' : '\n';
    for (int i = 0, begin = 1; kind == 3 && i < size; i++) {
        int letter = rand() % 8; /* a cell in quotes, with anything in it, and what closes it where that fits */
        if (begin && rand() % 2) {
            for (text[i++] = '"'; i < size && letter; i++, letter--)
                text[i] = rand() % 4 ? 'x' : "\n\t\xc3\xa9"[rand() % 4];
            for (letter = 1 + rand() % 3; i < size && letter; i++, letter--)
                text[i] = '"';
            i += rand() % 8 == 0;
            if (i < size)
                text[i] = rand() % width ? '\t' : '\n';
        }
        begin = i < size && (text[i] == '\t' || text[i] == '\n');
    }
    text[size - 1] = '\n';
    flags['#'] = rand() % 2;
    for (int i = 0; i < size; i++)
        lines += text[i] == '\n';
    int64_t room = rand() % 10 ? lines : rand() % (lines + 1), odd_room = lines / 4 + 1;
    uint8_t *rows = malloc(room * row_bytes + 1) + 1; /* at an odd address */
    struct line *odd = malloc(sizeof(struct line) * odd_room);
    int64_t end_room = 8 * (width + 1) + 128;
    uint32_t *ends = malloc(sizeof(uint32_t) * end_room);
    uint8_t delimiter = rand() % 4 ? '\t' : "\t,e.- 5"[rand() % 7];
    int64_t quote = rand() % 4 == 0 ? NO_QUOTE : rand() % 4 ? '"' : "5. \0,"[rand() % 5], longest = rand() % 2 ? 10 : 1 << 20;
    int64_t count = shmlease_read_lines(text, size, delimiter, quote, longest, width, cells, flags, rand() % 3, rows,
                                         row_bytes, room, odd, odd_room, ends, end_room, &found);
    if (shmlease_count(text, size, '\n') != lines || (count >= 0 && (quote == NO_QUOTE ? found != lines : found > lines)))
        abort();
    int64_t end = shmlease_last_record_end(text, size, delimiter, quote, longest, width, flags, ends, end_room);
    if (end > size || (count >= 0 && end != size) || (end > 0 && text[end - 1] != '\n'))
        abort();
    for (int64_t i = 0, at = 0; i < count; at = odd[i++].end)
        if (odd[i].start < at || odd[i].end > size || text[odd[i].end - 1] != '\n')
            abort();
    free(rows - 1);
    free(odd);
    free(ends);
    free(text);
    free(flags);
    free(cells);
}

int main(void)
{
    for (int i = 0; i < 60000; i++)
        one(i % 4);
    return 0;
}
