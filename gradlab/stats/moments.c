/* Sums and sums of squares of float32 values in double precision, in one pass over memory.
 *
 * A double holds the square of a float exactly, so no scale of the values and no number of them costs digits.
 * Compiled by native.py; every function returns whether all of its sums are finite.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
/* One library serves every processor: the best version is chosen when it is loaded. */
#define FASTEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTEST
#endif

#define WIDTH 8
typedef float floats __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef double doubles __attribute__((vector_size(8 * WIDTH)));
#define WIDENED(p) __builtin_convertvector(*(const floats *)(p), doubles)

/* out[0] = sum of x, out[1] = sum of squares of x. */
FASTEST int gradlab_moments(const float *x, ptrdiff_t n, double *out)
{
    /* Tensors of zeros that are not stored, and functional ones, have no address. */
    if (!x)
        return 0;
    doubles sums[4] = {{0}}, squares[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        doubles a = WIDENED(x + i), b = WIDENED(x + i + WIDTH);
        doubles c = WIDENED(x + i + 2 * WIDTH), d = WIDENED(x + i + 3 * WIDTH);
        sums[0] += a, sums[1] += b, sums[2] += c, sums[3] += d;
        squares[0] += a * a, squares[1] += b * b, squares[2] += c * c, squares[3] += d * d;
    }
    doubles sum = sums[0] + sums[1] + (sums[2] + sums[3]), square = squares[0] + squares[1] + (squares[2] + squares[3]);
    double total = 0, total_of_squares = 0;
    for (; i < n; i++) {
        double value = x[i];
        total += value;
        total_of_squares += value * value;
    }
    for (int k = 0; k < WIDTH; k++) {
        total += sum[k];
        total_of_squares += square[k];
    }
    out[0] = total;
    out[1] = total_of_squares;
    return isfinite(total_of_squares);
}

/* The moments of one site are a row: count, mean and m2 of whole passes, then count, sum and squares of the present one.
 *
 * Values that are not all finite are not added. */
int gradlab_add(const float *x, ptrdiff_t n, double *row)
{
    double sums[2];
    if (!gradlab_moments(x, n, sums))
        return 0;
    row[3] += (double)n;
    row[4] += sums[0];
    row[5] += sums[1];
    return 1;
}

/* End a pass, which counts if it was whole: its moments are merged with those before (Chan et al.). */
void gradlab_end_pass(double *row, ptrdiff_t rows, int whole)
{
    for (; rows > 0; rows--, row += 6) {
        double count = row[3], sum = row[4], squares = row[5];
        row[3] = row[4] = row[5] = 0;
        if (!whole || !count)
            continue;
        double mean = sum / count, total = row[0] + count, delta = mean - row[1];
        row[2] += fmax(0, squares - sum * mean) + delta * delta * row[0] * (count / total);
        row[1] += delta * (count / total);
        row[0] = total;
    }
}

/* A tensor as DLPack describes it (dlpack.h, version 1). */
typedef struct {
    char *data;
    int32_t device, device_number, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    const int64_t *shape, *strides;
    uint64_t offset;
} tensor;

/* What of Python and torch is called, so that this file needs none of their headers. */
static struct {
    int (*view)(void *object, tensor *out);
    void *(*address)(void *integer);
    void *(*truth)(long);
    void (*clear_error)(void);
} python;

/* The largest number of values for which one thread is to be used. */
static int64_t most;

void gradlab_bind(int (*view)(void *, tensor *), void *(*address)(void *), void *(*truth)(long), void (*clear)(void))
{
    python.view = view, python.address = address, python.truth = truth, python.clear_error = clear;
}

void gradlab_limit(int64_t values) { most = values; }

/* Whether the values lie next to each other in memory, with the dimensions in a given order. */
static int is_dense(const tensor *x, const int32_t *order)
{
    int64_t expected = 1;
    for (int32_t k = x->ndim - 1; k >= 0; k--) {
        int32_t dim = order ? order[k] : k;
        if (x->shape[dim] != 1 && x->strides && x->strides[dim] != expected)
            return 0;
        expected *= x->shape[dim];
    }
    return 1;
}

/* A function of Python: add a tensor to the row at an address, and return whether it is one that is served here. */
void *gradlab_take(void *address, void *object)
{
    static const int32_t channels_last[] = {0, 2, 3, 1};
    tensor x;
    if (python.view(object, &x) != 0) {
        python.clear_error();
        return python.truth(0);
    }
    int64_t n = 1;
    for (int32_t dim = 0; dim < x.ndim; dim++)
        n *= x.shape[dim];
    int served = x.device == 1 && x.code == 2 && x.bits == 32 && x.lanes == 1 && x.data && n > 1 && n <= most &&
                 (is_dense(&x, NULL) || (x.ndim == 4 && is_dense(&x, channels_last)));
    return python.truth(served && gradlab_add((const float *)(x.data + x.offset), n, python.address(address)));
}

/* Channels that lie next to each other, as in channels_last: x of shape (rows, channels), out of shape (2, channels). */
FASTEST static void adjacent_channels(const float *x, ptrdiff_t rows, ptrdiff_t channels, double *out)
{
    ptrdiff_t first = 0;
    for (; first + 2 * WIDTH <= channels; first += 2 * WIDTH) {
        const float *at = x + first;
        doubles sums[2] = {{0}}, squares[2] = {{0}};
        for (ptrdiff_t row = 0; row < rows; row++, at += channels) {
            doubles a = WIDENED(at), b = WIDENED(at + WIDTH);
            sums[0] += a, sums[1] += b;
            squares[0] += a * a, squares[1] += b * b;
        }
        for (int k = 0; k < 2 * WIDTH; k++) {
            out[first + k] = sums[k / WIDTH][k % WIDTH];
            out[channels + first + k] = squares[k / WIDTH][k % WIDTH];
        }
    }
    for (; first < channels; first++) {
        double sum = 0, square = 0;
        for (ptrdiff_t row = 0; row < rows; row++) {
            double value = x[row * channels + first];
            sum += value;
            square += value * value;
        }
        out[first] = sum;
        out[channels + first] = square;
    }
}

/* The same for each channel of x, shape (outer, channels, inner): out[0] the sums, out[1] the sums of squares. */
int gradlab_channel_moments(const float *x, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, double *out)
{
    int finite = 1;
    if (inner == 1)
        adjacent_channels(x, outer, channels, out);
    else
        for (ptrdiff_t channel = 0; channel < channels; channel++) {
            double sum = 0, square = 0, part[2];
            for (ptrdiff_t row = 0; row < outer; row++) {
                gradlab_moments(x + (row * channels + channel) * inner, inner, part);
                sum += part[0];
                square += part[1];
            }
            out[channel] = sum;
            out[channels + channel] = square;
        }
    for (ptrdiff_t channel = 0; channel < channels; channel++)
        finite = finite && isfinite(out[channels + channel]);
    return finite;
}

/* What normalization by the statistics of this batch does, with weight and bias of each channel (or NULL for 1 and 0).
 *
 * statistics receives the mean and the variance of every channel, shape (2, channels), out the mean and the variance of
 * all values of the output: mean(bias) and mean(weight^2 v / (v + eps)) + var(bias). sums is room for 2 * channels.
 */
int gradlab_normalization(const float *x, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, const float *weight,
                          const float *bias, double eps, double *sums, float *statistics, double *out)
{
    double count = (double)outer * (double)inner, shift = 0, within = 0, between = 0;
    if (!gradlab_channel_moments(x, outer, channels, inner, sums))
        return 0;
    for (ptrdiff_t channel = 0; channel < channels; channel++) {
        double mean = sums[channel] / count;
        double variance = fmax(0, sums[channels + channel] / count - mean * mean);
        double scale = weight ? weight[channel] : 1;
        statistics[channel] = (float)mean;
        statistics[channels + channel] = (float)variance;
        within += scale * scale * variance / (variance + eps);
        shift += bias ? bias[channel] : 0;
    }
    shift /= (double)channels;
    for (ptrdiff_t channel = 0; channel < channels; channel++) {
        double away = (bias ? bias[channel] : 0) - shift;
        between += away * away;
    }
    out[0] = shift;
    out[1] = (within + between) / (double)channels;
    return 1;
}
