/* Gradients of a normalization's scale and shift for single examples.
 *
 * Loaded by example_normalizations.py. All values are float32; sums of a few thousand products are taken in that
 * precision, by vectors of partial sums, and added up in double precision.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "vectors.h"

/* How many values are added up in single precision. */
#define TOGETHER 2048

/* The smallest sum of which products that were rounded to 0 are no part that matters. */
#define LEAST 1e-20

/* The sums of n products, and of their first factors, in double precision. */
static void wide_sums(const float *x, const float *gradient, ptrdiff_t n, float mean, double *products, double *total)
{
    *products = *total = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        *products += (double)gradient[i] * ((double)x[i] - (double)mean);
        *total += (double)gradient[i];
    }
}

static int is_zero(const float *values, ptrdiff_t n)
{
    int found = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        found |= values[i] != 0;
    return !found;
}

/* The gradients of the scale and shift of one channel, from n values of its input and of the gradient of its output. */
INLINE void channel_sums(const float *x, const float *gradient, ptrdiff_t n, float mean, double inverse_std,
                         float *scale, float *shift)
{
    double products = 0, total = 0;
    for (ptrdiff_t first = 0; first < n; first += TOGETHER) {
        ptrdiff_t last = n - first < TOGETHER ? n : first + TOGETHER, at = first;
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
    if (!(fabs(products) >= LEAST && isfinite(products) && isfinite(total)) && !is_zero(gradient, n))
        wide_sums(x, gradient, n, mean, &products, &total);
    *scale = (float)(products * inverse_std);
    *shift = (float)total;
}

/* The version for each processor. */
#define VERSION(name, target)                                                                                           \
    target static void channels_##name(const float *x, const float *gradient, ptrdiff_t channels, ptrdiff_t n,          \
                                       const float *mean, const double *inverse_std, float *scale, float *shift)        \
    {                                                                                                                   \
        for (ptrdiff_t c = 0; c < channels; c++)                                                                        \
            channel_sums(x + c * n, gradient + c * n, n, mean[c], inverse_std[c], scale + c, shift + c);                \
    }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))))
VERSION(avx2, __attribute__((target("avx2,fma"))))
#endif
VERSION(plain, )

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
