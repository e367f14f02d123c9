/* Normal numbers, bit by bit those that torch draws into float32 tensors on x86 processors with AVX2.
 *
 * A Mersenne twister (Matsumoto and Nishimura 1998, MT19937) gives uniform numbers, of which each group of sixteen makes
 * sixteen normal ones (Box and Muller 1958). Logarithm, sine and cosine are the polynomials of the Cephes library, and
 * every fused multiplication is written as such, since other roundings would be other numbers. Almost all time of torch
 * goes into twisting one word at a time; here a vector of words is twisted at once.
 * Compiled by ../../compiled.py; drawing.py compares it with torch before it is used.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,fma")))

enum { SIZE = 624, SHIFT = 397, GROUP = 16, HALF = GROUP / 2 };

/* The head of what `torch.Generator.get_state` returns. */
struct generator {
    uint64_t seed;
    int32_t left, seeded;
    uint64_t next, words[SIZE];
};

static inline AVX2 uint32_t twisted(uint32_t first, uint32_t second, uint32_t far)
{
    uint32_t mixed = (first & 0x80000000u) | (second & 0x7fffffffu);
    return far ^ (mixed >> 1) ^ (-(second & 1u) & 0x9908b0dfu);
}

static AVX2 void twist(uint32_t *words)
{
    for (int i = 0; i < SIZE - SHIFT; i++)
        words[i] = twisted(words[i], words[i + 1], words[i + SHIFT]);
    /* What is read here was written at least SIZE - SHIFT words before. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
    for (int i = SIZE - SHIFT; i < SIZE - 1; i++)
        words[i] = twisted(words[i], words[i + 1], words[i + SHIFT - SIZE]);
    words[SIZE - 1] = twisted(words[SIZE - 1], words[0], words[SHIFT - 1]);
}

/* Tempered words as multiples of 2^-24 in [0, 1). */
static AVX2 void uniform(const uint32_t *restrict words, ptrdiff_t n, float *restrict out)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t y = words[i];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        y ^= y >> 18;
        out[i] = (float)(int32_t)(y & 0xffffffu) * 0x1p-24f;
    }
}

/* log x for 0 < x <= 1. */
static inline AVX2 float logarithm(float x)
{
    int32_t bits;
    memcpy(&bits, &x, 4);
    float exponent = (float)((bits >> 23) - 0x7e);
    bits = (bits & 0x007fffff) | 0x3f000000;
    memcpy(&x, &bits, 4);
    int small = x < 0.707106781186547524f;
    exponent -= small ? 1.0f : 0.0f;
    x = (x - 1.0f) + (small ? x : 0.0f);
    float square = x * x, y = fmaf(7.0376836292e-2f, x, -1.1514610310e-1f);
    y = fmaf(fmaf(y, x, 1.1676998740e-1f), x, -1.2420140846e-1f);
    y = fmaf(fmaf(y, x, 1.4249322787e-1f), x, -1.6668057665e-1f);
    y = fmaf(fmaf(y, x, 2.0000714765e-1f), x, -2.4999993993e-1f);
    y = fmaf(y, x, 3.3333331174e-1f);
    y = fmaf(y * x, square, exponent * -2.12194440e-4f);
    return fmaf(exponent, 0.693359375f, x + fmaf(square, -0.5f, y));
}

static AVX2 void box_muller(float *data, ptrdiff_t groups, float std)
{
    for (ptrdiff_t group = 0; group < groups; group++, data += GROUP)
        for (int k = 0; k < HALF; k++) {
            float radius = sqrtf(-2.0f * logarithm(1.0f - data[k])), x = 6.2831853071795864769f * data[k + HALF];
            /* The angle without its multiple of a quarter turn, which is subtracted in three parts. */
            int32_t eighths = ((int32_t)(x * 1.27323954473516f) + 1) & ~1;
            float y = (float)eighths;
            x = fmaf(y, -3.77489497744594108e-8f, fmaf(y, -2.4187564849853515625e-4f, fmaf(y, -0.78515625f, x)));
            float z = x * x;
            float even = fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
            even = fmaf(even * z, z, z * -0.5f) + 1.0f;
            float odd = fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
            odd = fmaf(odd * z, x, x);
            float sine = eighths & 2 ? even : odd, cosine = eighths & 2 ? odd : even;
            sine = eighths & 4 ? -sine : sine;
            cosine = (eighths - 2) & 4 ? cosine : -cosine;
            data[k] = fmaf(radius * cosine, std, 0.0f);
            data[k + HALF] = fmaf(radius * sine, std, 0.0f);
        }
}

static void take(struct generator *from, uint32_t *words, ptrdiff_t n, float *out)
{
    while (n) {
        /* Words are twisted only when the next one is asked for. */
        if (from->left == 1) {
            twist(words);
            from->left = SIZE + 1;
            from->next = 0;
        }
        ptrdiff_t count = n < from->left - 1 ? n : from->left - 1;
        uniform(words + from->next, count, out);
        from->left -= (int32_t)count;
        from->next += (uint64_t)count;
        out += count;
        n -= count;
    }
}

/* Fill out with n >= 16 numbers of mean 0, and move the generator on. */
void gradlab_normal(struct generator *from, float *out, ptrdiff_t n, float std)
{
    uint32_t words[SIZE];
    for (int i = 0; i < SIZE; i++)
        words[i] = (uint32_t)from->words[i];
    take(from, words, n, out);
    box_muller(out, n / GROUP, std);
    if (n % GROUP) {
        /* The last group is drawn anew as a whole. */
        take(from, words, GROUP, out + n - GROUP);
        box_muller(out + n - GROUP, 1, std);
    }
    for (int i = 0; i < SIZE; i++)
        from->words[i] = words[i];
}
