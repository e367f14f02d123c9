/* What the gradients of single examples, as rows of values, are reduced to: norms, inner products and sums.
 *
 * Loaded by example_rows.py. All values are float32; sums of a thousand products are taken in that precision, by vectors
 * of partial sums, and added up in double precision.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "vectors.h"

/* How many columns of rows are reduced at a time: those of four rows take half of a level-1 cache. */
#define COLUMNS 1024

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

/* Fill sums with the sums of n columns. */
INLINE void add_up(const float *rows, ptrdiff_t count, ptrdiff_t stride, ptrdiff_t n, float *sums)
{
    ptrdiff_t at = 0;
    for (; at + 4 * WIDTH <= n; at += 4 * WIDTH) {
        vector sum[4];
        for (int v = 0; v < 4; v++)
            sum[v] = LOAD(rows + at + v * WIDTH);
        for (ptrdiff_t i = 1; i < count; i++)
            for (int v = 0; v < 4; v++)
                sum[v] += LOAD(rows + i * stride + at + v * WIDTH);
        for (int v = 0; v < 4; v++)
            *(vector *)(sums + at + v * WIDTH) = sum[v];
    }
    for (; at < n; at++) {
        sums[at] = 0;
        for (ptrdiff_t i = 0; i < count; i++)
            sums[at] += rows[i * stride + at];
    }
}

/* Fill products with those of all pairs of rows, on and above the diagonal, and sums with the sum of the rows. */
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
        add_up(block, count, length, n, sums + first);
    }
}

INLINE double norm_of(const float *row, ptrdiff_t length)
{
    double square = 0;
    for (ptrdiff_t at = 0; at < length; at += COLUMNS)
        products_of(row + at, row + at, 0, length - at < COLUMNS ? length - at : COLUMNS, &square, 0, 1);
    return sqrt(square);
}

/* The version for each processor: as many sums at a time as it has registers for. */
#define VERSION(name, target, side)                                                                                     \
    target static void products_##name(const float *rows, ptrdiff_t count, ptrdiff_t length, double *products,          \
                                       float *sums)                                                                     \
    {                                                                                                                   \
        all_products(rows, count, length, products, sums, side);                                                        \
    }                                                                                                                   \
    target static double norm_##name(const float *row, ptrdiff_t length) { return norm_of(row, length); }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))), 4)
VERSION(avx2, __attribute__((target("avx2,fma"))), 2)
VERSION(plain, , 1)
#else
VERSION(plain, , 2)
#endif

static int is_zero(const float *row, ptrdiff_t length)
{
    for (ptrdiff_t i = 0; i < length; i++)
        if (row[i] != 0)
            return 0;
    return 1;
}

/* What rows of shape (count, length) are reduced to: their inner products, shape (count, count), their norms, the norm
 * of the sum of their directions and that of their sum, shape (count + 2,), and their sum, shape (length,).
 *
 * Returns 0 if squares may have left the range of float32, since the norm of what is not 0 does not lie between least
 * and most; then the results do not count. Otherwise 1 more than the number of rows that are 0.
 */
ptrdiff_t gradlab_reduce_rows(const float *rows, ptrdiff_t count, ptrdiff_t length, double least, double most,
                              double *products, double *norms, float *sums)
{
    ptrdiff_t zeros = 0;
    double cosines = 0;
    memset(products, 0, (size_t)(count * count) * sizeof(double));
    CHOSEN(products)(rows, count, length, products, sums);
    for (ptrdiff_t i = 0; i < count; i++)
        norms[i] = sqrt(products[i * count + i]);
    norms[count + 1] = CHOSEN(norm)(sums, length);
    for (ptrdiff_t i = 0; i < count + 2; i++) {
        if (i == count || (norms[i] >= least && norms[i] <= most))
            continue;
        if (!is_zero(i < count ? rows + i * length : sums, length))
            return 0;
        zeros += i < count;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t j = 0; j <= i; j++) {
            double product = products[i * count + j] = products[j * count + i];
            if (norms[i] > 0 && norms[j] > 0)
                cosines += i == j ? 1 : 2 * product / (norms[i] * norms[j]);
        }
    norms[count] = sqrt(fmax(0, cosines));
    return 1 + zeros;
}
