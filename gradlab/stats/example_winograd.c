/* Gradients of the weight of a convolution by 3 × 3 kernels with stride 1, for single examples.
 *
 * Winograd's minimal filtering F(3 × 3, 2 × 2) (Lavin and Gray 2016, arXiv:1509.09308) takes 16 products instead of 36
 * for the gradients at 2 × 2 positions. Along one dimension, positions with gradients g0, g1 see
 * the inputs d0 … d3 by the taps
 *     y0 = d0 g0 + d1 g1 = m0 + (m1 + m2) / 2        m0 = (d0 - d2) g0           m1 = (d1 + d2) (g0 + g1)
 *     y1 = d1 g0 + d2 g1 = (m1 - m2) / 2             m2 = (d2 - d1) (g0 - g1)    m3 = (d3 - d1) g1
 *     y2 = d2 g0 + d3 g1 = (m1 + m2) / 2 + m3
 * and the sum over all positions may be taken of the products m. Loaded by example_winograd.py. All values are float32.
 */
#include <string.h>

#include "images.h"

/* How many tiles of 2 × 2 positions are transformed, and their products summed, at a time. */
#define TILES 64
#define POINTS 16

/* How many lines of the cache are fetched for the next example with each sum of products. */
#define LINES 16
#define LINE (64 / sizeof(float))

/* What the next example is read from and written to: its input, its gradient and its result. */
struct coming {
    const float *at[3], *end[3];
};

/* Fetch a part of it, while the processor is busy with products. */
INLINE void fetch(struct coming *c)
{
    for (int part = 0, lines = 0; part < 3; part++)
        for (; lines < LINES && c->at[part] < c->end[part]; lines++, c->at[part] += LINE)
            __builtin_prefetch(c->at[part], 0, 2);
}

/* One example: its input and gradient, packed, and some of their transformed tiles. Channels and outputs are rounded up
 * to whole vectors. */
struct image {
    struct coming *coming;
    ptrdiff_t channels, outputs, wide_channels, wide_outputs, tiles, across, width;
    float *input, *gradient, *inputs, *gradients;
};

/* How far the values of two points lie apart: not by a power of two, which would fall on one place in the cache. */
INLINE ptrdiff_t apart(ptrdiff_t wide) { return TILES * wide + WIDTH; }

INLINE void transform_inputs(const struct image *m, ptrdiff_t first, ptrdiff_t count)
{
    ptrdiff_t col = m->wide_channels, row = m->width * col, step = apart(col);
    for (ptrdiff_t t = 0; t < count; t++) {
        const float *from = m->input + (first + t) / m->across * 2 * row + (first + t) % m->across * 2 * col;
        for (ptrdiff_t c = 0; c < col; c += WIDTH) {
            vector h[4][4];
            for (int i = 0; i < 4; i++) {
                const float *d = from + i * row + c;
                h[i][0] = LOAD(d) - LOAD(d + 2 * col);
                h[i][1] = LOAD(d + col) + LOAD(d + 2 * col);
                h[i][2] = LOAD(d + 2 * col) - LOAD(d + col);
                h[i][3] = LOAD(d + 3 * col) - LOAD(d + col);
            }
            float *to = m->inputs + t * col + c;
            for (int j = 0; j < 4; j++, to += step) {
                *(vector *)to = h[0][j] - h[2][j];
                *(vector *)(to + 4 * step) = h[1][j] + h[2][j];
                *(vector *)(to + 8 * step) = h[2][j] - h[1][j];
                *(vector *)(to + 12 * step) = h[3][j] - h[1][j];
            }
        }
    }
}

INLINE void transform_gradients(const struct image *m, ptrdiff_t first, ptrdiff_t count)
{
    ptrdiff_t col = m->wide_outputs, row = 2 * m->across * col, step = apart(col);
    for (ptrdiff_t t = 0; t < count; t++) {
        const float *from = m->gradient + (first + t) / m->across * 2 * row + (first + t) % m->across * 2 * col;
        for (ptrdiff_t o = 0; o < col; o += WIDTH) {
            vector h[2][4];
            for (int i = 0; i < 2; i++) {
                vector one = LOAD(from + i * row + o), other = LOAD(from + i * row + col + o);
                h[i][0] = one, h[i][1] = one + other, h[i][2] = one - other, h[i][3] = other;
            }
            float *to = m->gradients + t * col + o;
            for (int j = 0; j < 4; j++, to += step) {
                *(vector *)to = h[0][j];
                *(vector *)(to + 4 * step) = h[0][j] + h[1][j];
                *(vector *)(to + 8 * step) = h[0][j] - h[1][j];
                *(vector *)(to + 12 * step) = h[1][j];
            }
        }
    }
}

/* Sum the products over tiles, for some outputs and some vectors of channels. */
INLINE void products(const float *inputs, ptrdiff_t channels, const float *gradients, ptrdiff_t wide, ptrdiff_t count,
                     vector *out, const int outputs, const int vectors)
{
    vector sums[8][2];
    for (int o = 0; o < outputs; o++)
        for (int v = 0; v < vectors; v++)
            sums[o][v] = (vector){0};
    for (ptrdiff_t t = 0; t < count; t++, inputs += channels, gradients += wide) {
        vector seen[2];
        for (int v = 0; v < vectors; v++)
            seen[v] = LOAD(inputs + v * WIDTH);
        for (int o = 0; o < outputs; o++)
            for (int v = 0; v < vectors; v++)
                sums[o][v] += seen[v] * gradients[o];
    }
    for (int o = 0; o < outputs; o++)
        for (int v = 0; v < vectors; v++)
            out[o * vectors + v] = sums[o][v];
}

/* Add the gradients of the taps, of which sums holds the products, to out of shape (3, outputs, 3, channels). */
INLINE void taps(const struct image *m, const vector *sums, ptrdiff_t step, float *out, ptrdiff_t width, int add)
{
    vector h[3][4];
    for (int j = 0; j < 4; j++, sums += step) {
        vector one = sums[4 * step], other = sums[8 * step], both = 0.5f * (one + other);
        h[0][j] = sums[0] + both, h[1][j] = 0.5f * (one - other), h[2][j] = both + sums[12 * step];
    }
    for (int i = 0; i < 3; i++, out += m->outputs * 3 * m->channels) {
        vector both = 0.5f * (h[i][1] + h[i][2]);
        store(out, h[i][0] + both, width, add);
        store(out + m->channels, 0.5f * (h[i][1] - h[i][2]), width, add);
        store(out + 2 * m->channels, both + h[i][3], width, add);
    }
}

/* The gradients by some outputs at a time, and some vectors of channels. */
INLINE void some(const struct image *m, ptrdiff_t o, ptrdiff_t c, ptrdiff_t count, float *out, int add,
                 const int outputs, const int vectors)
{
    vector sums[POINTS][16];
    ptrdiff_t to = apart(m->wide_channels), from = apart(m->wide_outputs);
    for (int p = 0; p < POINTS; p++) {
        fetch(m->coming);
        products(m->inputs + p * to + c, m->wide_channels, m->gradients + p * from + o, m->wide_outputs, count, sums[p],
                 outputs, vectors);
    }
    for (int i = 0; i < outputs && o + i < m->outputs; i++)
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t at = c + v * WIDTH;
            taps(m, &sums[0][i * vectors + v], 16, out + (o + i) * 3 * m->channels + at, m->channels - at, add);
        }
}

INLINE void one_example(const struct image *m, float *out, const int outputs)
{
    for (ptrdiff_t first = 0; first < m->tiles; first += TILES) {
        ptrdiff_t count = m->tiles - first < TILES ? m->tiles - first : TILES;
        transform_inputs(m, first, count);
        transform_gradients(m, first, count);
        for (ptrdiff_t o = 0; o < m->outputs; o += outputs)
            for (ptrdiff_t c = 0; c < m->wide_channels; c += 2 * WIDTH)
                if (c + WIDTH < m->wide_channels)
                    some(m, o, c, count, out, first > 0, outputs, 2);
                else
                    some(m, o, c, count, out, first > 0, outputs, 1);
    }
}

/* The version for each processor: as many outputs at a time as it has registers for. */
#define VERSION(name, target, outputs)                                                                                  \
    target static void winograd_##name(const struct image *m, float *out) { one_example(m, out, outputs); }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))), 8)
VERSION(avx2, __attribute__((target("avx2,fma"))), 2)
VERSION(plain, , 1)
#else
VERSION(plain, , 2)
#endif

static ptrdiff_t whole(ptrdiff_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

/* Divide room among the tensors of one example, and return how many values they take. */
static ptrdiff_t laid_out(struct image *m, const ptrdiff_t *sizes, float *room)
{
    ptrdiff_t down = (sizes[4] + 1) / 2, across = (sizes[5] + 1) / 2, wide = whole(sizes[0]), out = whole(sizes[3]);
    *m = (struct image){.channels = sizes[0],
                        .outputs = sizes[3],
                        .wide_channels = wide,
                        .wide_outputs = out,
                        .tiles = down * across,
                        .across = across,
                        .width = 2 * across + 2,
                        .input = room};
    m->gradient = m->input + (2 * down + 2) * m->width * wide;
    m->inputs = m->gradient + 4 * m->tiles * out;
    m->gradients = m->inputs + POINTS * apart(wide);
    return m->gradients + POINTS * apart(out) - room;
}

/* How many values gradlab_winograd_rows needs as room. */
ptrdiff_t gradlab_winograd_space(const ptrdiff_t *sizes)
{
    struct image m;
    float beginning;
    return laid_out(&m, sizes, &beginning);
}

/* The gradients, shape (count, 3, outputs, 3, channels).
 *
 * sizes: channels, rows, cols, outputs, y, x, padding (2); then the strides of the input and of the gradient (4 each).
 */
void gradlab_winograd_rows(const float *x, const float *gradient, ptrdiff_t count, const ptrdiff_t *sizes, float *room,
                           float *out)
{
    struct image m;
    laid_out(&m, sizes, room);
    memset(room, 0, (size_t)(m.inputs - room) * sizeof(float));
    ptrdiff_t row = m.width * m.wide_channels, gradient_row = 2 * m.across * m.wide_outputs;
    ptrdiff_t numel = 9 * m.outputs * m.channels;
    float *inside = m.input + sizes[6] * row + sizes[7] * m.wide_channels;
    for (ptrdiff_t i = 0; i < count; i++) {
        pack(x + i * sizes[8], m.channels, sizes[1], sizes[2], sizes + 9, inside, row, m.wide_channels);
        pack(gradient + i * sizes[12], m.outputs, sizes[4], sizes[5], sizes + 13, m.gradient, gradient_row,
             m.wide_outputs);
        const float *next_x = x + (i + 1) * sizes[8], *next_gradient = gradient + (i + 1) * sizes[12];
        struct coming coming = {{next_x, next_gradient, out + numel}, {0}};
        if (i + 1 < count) {
            coming.end[0] = next_x + m.channels * sizes[1] * sizes[2];
            coming.end[1] = next_gradient + m.outputs * sizes[4] * sizes[5];
            coming.end[2] = out + 2 * numel;
        }
        m.coming = &coming;
        CHOSEN(winograd)(&m, out);
        out += numel;
    }
}
