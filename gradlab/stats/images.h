/* Images that are copied so that the channels of a position lie next to each other. */
#include <stddef.h>

#include "vectors.h"

typedef float four __attribute__((vector_size(16), aligned(4)));

/* Write four values of each of four channels, which lie apart, for one position after the other. */
INLINE void pack_four(const float *from, ptrdiff_t apart, float *to, ptrdiff_t step)
{
    four a = *(const four *)from, b = *(const four *)(from + apart);
    four c = *(const four *)(from + 2 * apart), d = *(const four *)(from + 3 * apart);
    four ab = {a[0], b[0], a[1], b[1]}, cd = {c[0], d[0], c[1], d[1]};
    four later_ab = {a[2], b[2], a[3], b[3]}, later_cd = {c[2], d[2], c[3], d[3]};
    *(four *)to = (four){ab[0], ab[1], cd[0], cd[1]};
    *(four *)(to + step) = (four){ab[2], ab[3], cd[2], cd[3]};
    *(four *)(to + 2 * step) = (four){later_ab[0], later_ab[1], later_cd[0], later_cd[1]};
    *(four *)(to + 3 * step) = (four){later_ab[2], later_ab[3], later_cd[2], later_cd[3]};
}

/* Copy an image of shape (channels, rows, cols) with any strides to (rows, cols, channels). */
INLINE void pack(const float *from, ptrdiff_t channels, ptrdiff_t rows, ptrdiff_t cols, const ptrdiff_t *strides,
                 float *to, ptrdiff_t row_step, ptrdiff_t col_step)
{
    ptrdiff_t even = strides[2] == 1 ? channels / 4 * 4 : 0, whole = cols / 4 * 4;
    for (ptrdiff_t y = 0; y < rows; y++, from += strides[1], to += row_step) {
        /* A line of the cache at a time, since those of all channels may fall on one place in it. */
        for (ptrdiff_t first = 0; first < whole; first += WIDTH)
            for (ptrdiff_t c = 0; c < even; c += 4)
                for (ptrdiff_t x = first; x < whole && x < first + WIDTH; x += 4)
                    pack_four(from + c * strides[0] + x, strides[0], to + x * col_step + c, col_step);
        for (ptrdiff_t x = 0; x < cols; x++)
            for (ptrdiff_t c = x < whole ? even : 0; c < channels; c++)
                to[x * col_step + c] = from[c * strides[0] + x * strides[2]];
    }
}
