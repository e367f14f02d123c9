/* Vectors of numbers, and the choice of the functions that this processor runs best. */

#define WIDTH 16
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4)));
#define LOAD(p) (*(const vector *)(p))
#define INLINE static inline __attribute__((always_inline))

typedef float half_vector __attribute__((vector_size(2 * WIDTH), aligned(4)));
typedef float quarter __attribute__((vector_size(WIDTH), aligned(4)));

INLINE float sum_of(vector v)
{
    const float *values = (const float *)&v;
    half_vector half = *(const half_vector *)values + *(const half_vector *)(values + WIDTH / 2);
    values = (const float *)&half;
    quarter rest = *(const quarter *)values + *(const quarter *)(values + WIDTH / 4);
    return (rest[0] + rest[2]) + (rest[1] + rest[3]);
}

/* Store as many of the values as there is room for, or add them to what is there. */
INLINE void store(float *to, vector value, ptrdiff_t width, int add)
{
    if (width >= WIDTH)
        *(vector *)to = add ? LOAD(to) + value : value;
    else
        for (ptrdiff_t i = 0; i < width; i++)
            to[i] = add ? to[i] + value[i] : value[i];
}

/* The function of this name for the best that this processor can do. Tests choose another. */
#if defined(__x86_64__) && defined(__GNUC__)
#define BEST(name)                                                                                                      \
    (__builtin_cpu_supports("avx512f")                                 ? name##_avx512                                  \
     : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? name##_avx2                                    \
                                                                       : name##_plain)
#else
#define BEST(name) name##_plain
#endif
#ifndef CHOSEN
#define CHOSEN BEST
#endif
