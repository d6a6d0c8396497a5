/* SPDX-License-Identifier: MIT
 *
 * Element types: the tokens "i8" to "f64", with "<" and ">" for a byte order other than the machine's own.
 */
#ifndef POLYSHM_ELEMENT_H
#define POLYSHM_ELEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <polyshm/error.h>
#include <polyshm/polyshm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* constant, token, C type, struct letter of Python */
#define PSHM_ELEMENT_MAP(X)                                                                                            \
    X(I8, "i8", int8_t, 'b')                                                                                           \
    X(U8, "u8", uint8_t, 'B')                                                                                          \
    X(I16, "i16", int16_t, 'h')                                                                                        \
    X(U16, "u16", uint16_t, 'H')                                                                                       \
    X(I32, "i32", int32_t, 'i')                                                                                        \
    X(U32, "u32", uint32_t, 'I')                                                                                       \
    X(I64, "i64", int64_t, 'q')                                                                                        \
    X(U64, "u64", uint64_t, 'Q')                                                                                       \
    X(F32, "f32", float, 'f')                                                                                          \
    X(F64, "f64", double, 'd')

typedef enum pshm_element_type {
#define X(name, token, ctype, letter) PSHM_##name,
    PSHM_ELEMENT_MAP(X)
#undef X
} pshm_element_type;

typedef struct pshm_element {
    pshm_element_type type;
    uint32_t size; /* bytes of one */
    bool swap;     /* not in the machine's byte order */
    char letter;   /* Python's struct letter */
} pshm_element;

/* Reads a token: "f64" and "=f64" are in the machine's order, "<f64" little, ">f64" big.
 * Errors: PSHM_ETYPE. */
PSHM_API int pshm_element_parse(const char *token, size_t length, pshm_element *out);

/* Is it f32 or f64?
 * Safe: anywhere. */
static inline bool pshm_element_is_float(pshm_element_type type)
{
    return type == PSHM_F32 || type == PSHM_F64;
}

/* Turns the bytes of one element around, in place.
 * Safe: anywhere. */
static inline void pshm_element_swap(void *value, uint32_t size)
{
    if (size == 2) {
        uint16_t v;
        memcpy(&v, value, 2);
        v = __builtin_bswap16(v);
        memcpy(value, &v, 2);
    } else if (size == 4) {
        uint32_t v;
        memcpy(&v, value, 4);
        v = __builtin_bswap32(v);
        memcpy(value, &v, 4);
    } else if (size == 8) {
        uint64_t v;
        memcpy(&v, value, 8);
        v = __builtin_bswap64(v);
        memcpy(value, &v, 8);
    }
}

#ifdef __cplusplus
}
#endif
#endif
