/* Gradients of single examples: those of a convolution's weight and of a normalization's scale and shift, and what rows
 * of gradients are reduced to.
 *
 * Loaded by example_native.py. All values are float32; sums of a few thousand products are taken in that precision, by
 * vectors of partial sums, and added up in double precision.
 */
#include <math.h>
#include <string.h>

#include "images.h"

#define VECTORS 3
#define CHUNK (VECTORS * WIDTH)

/* How many positions are summed before they are added to what others gave, in bytes read: half of a level-1 cache. */
#define NEAR (16 << 10)
/* How many columns of rows are reduced at a time. */
#define COLUMNS 2048

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
        for (int v = 0; v < vectors; v++) {
            ptrdiff_t left = width - v * WIDTH;
            float *at = out + o * length + v * WIDTH;
            if (o >= height)
                continue;
            if (left >= WIDTH)
                *(vector *)at = add ? LOAD(at) + sums[o][v] : sums[o][v];
            else
                for (int i = 0; i < left; i++)
                    at[i] = add ? at[i] + sums[o][v][i] : sums[o][v][i];
        }
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

INLINE float sum_of(vector v)
{
    float total = 0;
    for (int i = 0; i < WIDTH; i++)
        total += v[i];
    return total;
}

/* Add the products of some rows with some others over n columns to products, which has a row for each of count. */
INLINE void products_of(const float *one, const float *other, ptrdiff_t stride, ptrdiff_t n, double *products,
                        ptrdiff_t count, const int side)
{
    vector sums[4][4];
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++)
            sums[i][j] = (vector){0};
    ptrdiff_t at = 0;
    for (; at + WIDTH <= n; at += WIDTH) {
        vector right[4];
        for (int j = 0; j < side; j++)
            right[j] = LOAD(other + j * stride + at);
        for (int i = 0; i < side; i++)
            for (int j = 0; j < side; j++)
                sums[i][j] += LOAD(one + i * stride + at) * right[j];
    }
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            float rest = 0;
            for (ptrdiff_t p = at; p < n; p++)
                rest += one[i * stride + p] * other[j * stride + p];
            products[i * count + j] += (double)(sum_of(sums[i][j]) + rest);
        }
}

/* The same for all pairs of rows, of which those above the diagonal are filled; sums receives their sum. */
INLINE void all_products(const float *rows, ptrdiff_t count, ptrdiff_t length, double *products, float *sums,
                         const int side)
{
    for (ptrdiff_t first = 0; first < length; first += COLUMNS) {
        ptrdiff_t n = length - first < COLUMNS ? length - first : COLUMNS;
        const float *block = rows + first;
        for (ptrdiff_t i = 0; i < count; i += side)
            for (ptrdiff_t j = i; j < count; j += side) {
                if (i + side <= count && j + side <= count)
                    products_of(block + i * length, block + j * length, length, n, products + i * count + j, count, side);
                else
                    for (ptrdiff_t k = i; k < count && k < i + side; k++)
                        for (ptrdiff_t l = j; l < count && l < j + side; l++)
                            products_of(block + k * length, block + l * length, length, n, products + k * count + l,
                                        count, 1);
            }
        memcpy(sums + first, block, (size_t)n * sizeof(float));
        for (ptrdiff_t i = 1; i < count; i++)
            for (ptrdiff_t p = 0; p < n; p++)
                sums[first + p] += block[i * length + p];
    }
}

INLINE double norm_of(const float *row, ptrdiff_t length)
{
    double square = 0;
    for (ptrdiff_t at = 0; at < length; at += COLUMNS)
        products_of(row + at, row + at, 0, length - at < COLUMNS ? length - at : COLUMNS, &square, 0, 1);
    return sqrt(square);
}

/* The gradients of the scale and shift of one channel, from n values of its input and of the gradient of its output. */
INLINE void channel_sums(const float *x, const float *gradient, ptrdiff_t n, float mean, double inverse_std,
                         float *scale, float *shift)
{
    double products = 0, total = 0;
    for (ptrdiff_t first = 0; first < n; first += COLUMNS) {
        ptrdiff_t last = n - first < COLUMNS ? n : first + COLUMNS, at = first;
        vector product[2] = {{0}}, sum[2] = {{0}};
        for (; at + 2 * WIDTH <= last; at += 2 * WIDTH)
            for (int i = 0; i < 2; i++) {
                vector g = LOAD(gradient + at + i * WIDTH);
                product[i] += g * (LOAD(x + at + i * WIDTH) - mean);
                sum[i] += g;
            }
        float product_rest = 0, rest = 0;
        for (; at < last; at++) {
            product_rest += gradient[at] * (x[at] - mean);
            rest += gradient[at];
        }
        products += (double)(sum_of(product[0] + product[1]) + product_rest);
        total += (double)(sum_of(sum[0] + sum[1]) + rest);
    }
    *scale = (float)(products * inverse_std);
    *shift = (float)total;
}

/* The version for each processor: as many sums at a time as it has registers for. */
#define VERSION(name, target, outputs, side)                                                                            \
    target static void convolution_##name(const struct convolution *c, const float *x, const float *g, float *out)      \
    {                                                                                                                   \
        one_example(c, x, g, out, outputs);                                                                             \
    }                                                                                                                   \
    target static void products_##name(const float *rows, ptrdiff_t count, ptrdiff_t length, double *products,          \
                                       float *sums)                                                                     \
    {                                                                                                                   \
        all_products(rows, count, length, products, sums, side);                                                        \
    }                                                                                                                   \
    target static double norm_##name(const float *row, ptrdiff_t length) { return norm_of(row, length); }               \
    target static void channels_##name(const float *x, const float *gradient, ptrdiff_t channels, ptrdiff_t n,          \
                                       const float *mean, const double *inverse_std, float *scale, float *shift)        \
    {                                                                                                                   \
        for (ptrdiff_t c = 0; c < channels; c++)                                                                        \
            channel_sums(x + c * n, gradient + c * n, n, mean[c], inverse_std[c], scale + c, shift + c);                \
    }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))), 8, 4)
VERSION(avx2, __attribute__((target("avx2,fma"))), 2, 2)
VERSION(plain, , 1, 1)
#else
VERSION(plain, , 2, 2)
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

static int is_zero(const float *row, ptrdiff_t length)
{
    for (ptrdiff_t i = 0; i < length; i++)
        if (row[i] != 0)
            return 0;
    return 1;
}

/* What rows of shape (count, length) are reduced to: their norms, the norm of the sum of their directions and the norm
 * of their sum, shape (count + 2,), and their sum, shape (length,). Their inner products are added to total, shape (count, count), unless
 * that is NULL.
 *
 * room: space for count * count numbers. Returns whether all norms of what is not 0 lie between least and most;
 * otherwise squares may have left the range of float32, and nothing is added to total.
 */
int gradlab_reduce_rows(const float *rows, ptrdiff_t count, ptrdiff_t length, double least, double most, double *room,
                        double *norms, float *sums, double *total)
{
    double cosines = 0;
    memset(room, 0, (size_t)(count * count) * sizeof(double));
    CHOSEN(products)(rows, count, length, room, sums);
    for (ptrdiff_t i = 0; i < count; i++)
        norms[i] = sqrt(room[i * count + i]);
    norms[count + 1] = CHOSEN(norm)(sums, length);
    for (ptrdiff_t i = 0; i < count + 2; i++) {
        const float *row = i < count ? rows + i * length : sums;
        if (i != count && !(norms[i] >= least && norms[i] <= most) && !is_zero(row, length))
            return 0;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t j = 0; j <= i; j++) {
            double product = room[j * count + i];
            if (norms[i] > 0 && norms[j] > 0)
                cosines += i == j ? 1 : 2 * product / (norms[i] * norms[j]);
            if (total) {
                total[i * count + j] += product;
                if (i != j)
                    total[j * count + i] += product;
            }
        }
    norms[count] = sqrt(fmax(0, cosines));
    return 1;
}

static void add_up(const float *rows, ptrdiff_t count, ptrdiff_t length, float *total)
{
    memcpy(total, rows, (size_t)length * sizeof(float));
    for (ptrdiff_t i = 1; i < count; i++)
        for (ptrdiff_t p = 0; p < length; p++)
            total[p] += rows[i * length + p];
}

/* The gradients of the scale and shift of a normalization by a given mean and variance, and their sums over examples.
 *
 * x and gradient have shape (count, channels, n), rows has (2, count, channels). room: space for channels numbers.
 */
void gradlab_normalization_rows(const float *x, const float *gradient, ptrdiff_t count, ptrdiff_t channels, ptrdiff_t n,
                                const float *mean, const float *var, double eps, double *room, float *rows,
                                float *scale_total, float *shift_total)
{
    float *scale = rows, *shift = rows + count * channels;
    for (ptrdiff_t c = 0; c < channels; c++)
        room[c] = 1 / sqrt((double)var[c] + eps);
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t place = i * channels;
        CHOSEN(channels)(x + place * n, gradient + place * n, channels, n, mean, room, scale + place, shift + place);
    }
    add_up(scale, count, channels, scale_total);
    add_up(shift, count, channels, shift_total);
}
