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

INLINE double product_of(const float *one, const float *other, ptrdiff_t length)
{
    double product = 0;
    for (ptrdiff_t at = 0; at < length; at += COLUMNS)
        products_of(one + at, other + at, 0, length - at < COLUMNS ? length - at : COLUMNS, &product, 0, 1);
    return product;
}

/* The version for each processor: as many sums at a time as it has registers for. */
#define VERSION(name, target, side)                                                                                     \
    target static void products_##name(const float *rows, ptrdiff_t count, ptrdiff_t length, double *products,          \
                                       float *sums)                                                                     \
    {                                                                                                                   \
        all_products(rows, count, length, products, sums, side);                                                        \
    }                                                                                                                   \
    target static double product_##name(const float *one, const float *other, ptrdiff_t length)                         \
    {                                                                                                                   \
        return product_of(one, other, length);                                                                          \
    }

#if defined(__x86_64__) && defined(__GNUC__)
VERSION(avx512, __attribute__((target("avx512f,fma"))), 4)
VERSION(avx2, __attribute__((target("avx2,fma"))), 2)
VERSION(plain, , 1)
#else
VERSION(plain, , 2)
#endif

/* Whether any of n values is not 0. */
int gradlab_any(const float *values, ptrdiff_t n)
{
    int found = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        found |= values[i] != 0;
    return found;
}

/* Multiply a row by the power of two that brings its largest value to about 1, which is exact, and return that; 0 if all
 * values are 0. */
static double enlarge(float *row, ptrdiff_t length)
{
    if (!gradlab_any(row, length))
        return 0;
    float most = 0;
    for (ptrdiff_t i = 0; i < length; i++)
        most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
    /* The factor itself has to be in the range of float32. */
    float factor = ldexpf(1, -ilogbf(most) < 126 ? -ilogbf(most) : 126);
    for (ptrdiff_t i = 0; i < length; i++)
        row[i] *= factor;
    return factor;
}

static void shrink(float *row, ptrdiff_t length, double factor)
{
    for (ptrdiff_t i = 0; i < length; i++)
        row[i] *= (float)(1 / factor);
}

/* Compute the products of small rows, whose squares float32 does not hold, again: those with a norm below least. */
static void enlarged_products(float *rows, ptrdiff_t count, ptrdiff_t length, double least, double *products,
                              double *norms, double *factors)
{
    for (ptrdiff_t i = 0; i < count; i++)
        factors[i] = norms[i] < least ? enlarge(rows + i * length, length) : 1;
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t j = i; j < count; j++)
            if (factors[i] > 0 && factors[j] > 0 && (norms[i] < least || norms[j] < least))
                products[i * count + j] = CHOSEN(product)(rows + i * length, rows + j * length, length) / factors[i] /
                                          factors[j];
    for (ptrdiff_t i = 0; i < count; i++)
        if (factors[i] > 0 && norms[i] < least) {
            norms[i] = sqrt(products[i * count + i] * factors[i] * factors[i]) / factors[i];
            shrink(rows + i * length, length, factors[i]);
        }
}

static double norm_of(float *row, ptrdiff_t length, double least)
{
    double norm = sqrt(CHOSEN(product)(row, row, length));
    double factor = norm < least ? enlarge(row, length) : 0;
    if (factor > 0) {
        norm = sqrt(CHOSEN(product)(row, row, length)) / factor;
        shrink(row, length, factor);
    }
    return norm;
}

/* What rows of shape (count, length) are reduced to: their inner products, shape (count, count), their norms, shape
 * (count,), the norm of the sum of their directions and that of their sum, and this sum, shape (length,).
 *
 * Squares are in the range of float32 for norms between least and most; smaller rows are scaled, and scaled back. room:
 * space for count numbers. Returns 0 if a norm is larger or none; then the results do not count. Otherwise 1 more than
 * the number of rows with norms below doubtful, without those of which all n values of factors are 0, unless that is
 * NULL. The products are added to total unless it is NULL.
 */
ptrdiff_t gradlab_reduce_rows(float *rows, ptrdiff_t count, ptrdiff_t length, double least, double most, double doubtful,
                              const float *factors, ptrdiff_t n, double *products, double *norms, double *ends, float *sums,
                              double *room, double *total)
{
    ptrdiff_t small = 0, unsure = 0;
    double cosines = 0;
    memset(products, 0, (size_t)(count * count) * sizeof(double));
    CHOSEN(products)(rows, count, length, products, sums);
    for (ptrdiff_t i = 0; i < count; i++) {
        norms[i] = sqrt(products[i * count + i]);
        small += norms[i] < least;
    }
    ends[1] = norm_of(sums, length, least);
    for (ptrdiff_t i = 0; i <= count; i++)
        if (!((i < count ? norms[i] : ends[1]) <= most))
            return 0;
    if (small)
        enlarged_products(rows, count, length, least, products, norms, room);
    for (ptrdiff_t i = 0; i < count; i++) {
        unsure += norms[i] < doubtful && (norms[i] > 0 || !factors || gradlab_any(factors + i * n, n));
        for (ptrdiff_t j = 0; j <= i; j++) {
            double product = products[i * count + j] = products[j * count + i];
            if (norms[i] > 0 && norms[j] > 0)
                cosines += i == j ? 1 : 2 * (product / norms[i] / norms[j]);
        }
    }
    ends[0] = sqrt(fmax(0, cosines));
    for (ptrdiff_t i = 0; total && i < count * count; i++)
        total[i] += products[i];
    return 1 + unsure;
}
