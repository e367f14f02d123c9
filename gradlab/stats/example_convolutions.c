/* Gradients of a convolution's weight for single examples.
 *
 * Loaded by example_native.py. All values are float32; sums of a few thousand products are taken in that precision, by
 * vectors of partial sums.
 */
#include <string.h>

#include "images.h"

#define VECTORS 3
#define CHUNK (VECTORS * WIDTH)

/* How many positions are summed before they are added to what others gave, in bytes read: half of a level-1 cache. */
#define NEAR (16 << 10)

/* A convolution of one example: input of shape (rows, cols, channels) with padding, and gradient (y, x, outputs). */
struct convolution {
    ptrdiff_t channels, outputs, kernel_rows, kernel_cols, y, x, row_step, col_step, tap_step, gradient_step;
};

/* Add to out, of shape (height, width) in rows of length, the products of gradients with inputs over some positions. */
INLINE void tile(const struct convolution *c, const float *input, const float *gradient, ptrdiff_t rows, float *out,
                 ptrdiff_t length, ptrdiff_t height, ptrdiff_t width, int add, const int outputs, const int vectors)
{
    vector sums[8][VECTORS];
    for (int o = 0; o < outputs; o++)
        for (int v = 0; v < vectors; v++)
            sums[o][v] = (vector){0};
    for (ptrdiff_t y = 0; y < rows; y++) {
        const float *a = input + y * c->row_step, *b = gradient + y * c->x * c->gradient_step;
        for (ptrdiff_t x = 0; x < c->x; x++, a += c->col_step, b += c->gradient_step) {
            vector seen[VECTORS];
            for (int v = 0; v < vectors; v++)
                seen[v] = LOAD(a + v * WIDTH);
            for (int o = 0; o < outputs; o++)
                for (int v = 0; v < vectors; v++)
                    sums[o][v] += seen[v] * b[o];
        }
    }
    for (int o = 0; o < outputs; o++)
        for (int v = 0; v < vectors; v++)
            if (o < height)
                store(out + o * length + v * WIDTH, sums[o][v], width - v * WIDTH, add);
}

/* The gradient of one example, shape (kernel rows, outputs, kernel cols * channels), from its packed tensors. */
INLINE void one_example(const struct convolution *c, const float *input, const float *gradient, float *out,
                        const int outputs)
{
    ptrdiff_t length = c->kernel_cols * c->channels, near = c->row_step + c->x * c->gradient_step;
    ptrdiff_t block = NEAR / (4 * near) > 1 ? NEAR / (4 * near) : 1;
    for (ptrdiff_t y = 0; y < c->y; y += block) {
        ptrdiff_t rows = c->y - y < block ? c->y - y : block;
        for (ptrdiff_t k = 0; k < c->kernel_rows; k++)
            for (ptrdiff_t o = 0; o < c->outputs; o += outputs)
                for (ptrdiff_t j = 0; j < length; j += CHUNK) {
                    const float *a = input + y * c->row_step + k * c->tap_step + j;
                    const float *b = gradient + y * c->x * c->gradient_step + o;
                    float *to = out + (k * c->outputs + o) * length + j;
                    ptrdiff_t height = c->outputs - o, width = length - j;
                    if (width > 2 * WIDTH)
                        tile(c, a, b, rows, to, length, height, width, y > 0, outputs, 3);
                    else if (width > WIDTH)
                        tile(c, a, b, rows, to, length, height, width, y > 0, outputs, 2);
                    else
                        tile(c, a, b, rows, to, length, height, width, y > 0, outputs, 1);
                }
    }
}

/* The version for each processor: as many outputs at a time as it has registers for. */
#define VERSION(name, target, outputs)                                                                                  \
    target static void convolution_##name(const struct convolution *c, const float *x, const float *g, float *out)      \
    {                                                                                                                   \
        one_example(c, x, g, out, outputs);                                                                             \
    }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))), 8)
VERSION(avx2, __attribute__((target("avx2,fma"))), 2)
VERSION(plain, , 1)
#else
VERSION(plain, , 2)
#endif

/* The gradients of a convolution's weight, shape (count, kernel rows, outputs, kernel cols * channels).
 *
 * sizes: channels, rows, cols, outputs, y, x, kernel rows, kernel cols, stride (2), padding (2), dilation of rows; then
 * the strides of the input and of the gradient (4 each). room: zeros for the padded input of one example, for 64 values
 * beyond it, and for its gradient with the number of outputs rounded up to 8.
 */
void gradlab_convolution_rows(const float *x, const float *gradient, ptrdiff_t count, const ptrdiff_t *sizes, float *room,
                              float *out)
{
    ptrdiff_t channels = sizes[0], outputs = sizes[3], width = sizes[2] + 2 * sizes[11], wide = (outputs + 7) / 8 * 8;
    struct convolution c = {.channels = channels,
                            .outputs = outputs,
                            .kernel_rows = sizes[6],
                            .kernel_cols = sizes[7],
                            .y = sizes[4],
                            .x = sizes[5],
                            .row_step = sizes[8] * width * channels,
                            .col_step = sizes[9] * channels,
                            .tap_step = sizes[12] * width * channels,
                            .gradient_step = wide};
    const ptrdiff_t *x_strides = sizes + 13, *g_strides = sizes + 17;
    float *inside = room + (sizes[10] * width + sizes[11]) * channels;
    float *packed = room + (sizes[1] + 2 * sizes[10]) * width * channels + 64;
    for (ptrdiff_t i = 0; i < count; i++) {
        pack(x + i * x_strides[0], channels, sizes[1], sizes[2], x_strides + 1, inside, width * channels, channels);
        pack(gradient + i * g_strides[0], outputs, c.y, c.x, g_strides + 1, packed, c.x * wide, wide);
        CHOSEN(convolution)(&c, room, packed, out + i * c.kernel_rows * outputs * c.kernel_cols * channels);
    }
}

/* Values of shape (rows, outputs, cols, channels), as above for one example, in the order (outputs, channels, rows,
 * cols) of a weight. */
void gradlab_in_order(const float *values, ptrdiff_t rows, ptrdiff_t outputs, ptrdiff_t cols, ptrdiff_t channels, float *out)
{
    for (ptrdiff_t o = 0; o < outputs; o++)
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t k = 0; k < rows; k++)
                for (ptrdiff_t l = 0; l < cols; l++)
                    *out++ = values[((k * outputs + o) * cols + l) * channels + c];
}
