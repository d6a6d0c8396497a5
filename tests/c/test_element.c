/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <polyshm/element.h>

static int parse(const char *token, pshm_element *out)
{
    return pshm_element_parse(token, strlen(token), out);
}

static void test_every_token_in_every_order(void **state)
{
    const bool big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
    pshm_element e;
    (void)state;
#define X(name, token, ctype, code)                                                                                    \
    do {                                                                                                               \
        static const struct {                                                                                          \
            const char *text;                                                                                          \
            bool swap;                                                                                                 \
        } forms[] = {{token, false}, {"=" token, false}, {"<" token, big}, {">" token, !big}};                         \
        for (int i = 0; i < 4; i++) {                                                                                  \
            assert_rc(parse(forms[i].text, &e), 0);                                                                    \
            assert_int_equal(e.type, PSHM_##name);                                                                     \
            assert_int_equal(e.size, sizeof(ctype));                                                                   \
            assert_int_equal(e.letter, code);                                                                          \
            assert_int_equal(e.swap, sizeof(ctype) > 1 && forms[i].swap);                                              \
        }                                                                                                              \
    } while (0);
    PSHM_ELEMENT_MAP(X)
#undef X
}

static void test_what_is_no_type(void **state)
{
    static const char *const bads[] = {"",   "<",    "i",    "i128", "f16", "I32",  "i32 ", "<<i32",
                                       "@i", "<>u8", "u64x", "d",    "i3",  "!i32", "bool"};
    pshm_element e = {.size = 99};
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++)
        assert_rc(parse(bads[i], &e), PSHM_ETYPE);
    assert_rc(pshm_element_parse("i32\0", 4, &e), PSHM_ETYPE);
    assert_int_equal(e.size, 99);
}

static void test_floats(void **state)
{
    (void)state;
    assert_true(pshm_element_is_float(PSHM_F32) && pshm_element_is_float(PSHM_F64));
    for (pshm_element_type type = PSHM_I8; type < PSHM_F32; type++)
        assert_false(pshm_element_is_float(type));
}

static void test_swap(void **state)
{
    static const unsigned char ordered[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    (void)state;
    for (uint32_t size = 1; size <= 8; size *= 2) {
        unsigned char bytes[8];
        memcpy(bytes, ordered, 8);
        pshm_element_swap(bytes, size);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(bytes[i], i < size ? ordered[size - 1 - i] : ordered[i]);
        pshm_element_swap(bytes, size);
        assert_memory_equal(bytes, ordered, 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_token_in_every_order),
        TEST(test_what_is_no_type),
        TEST(test_floats),
        TEST(test_swap),
    };
    return cmocka_run_group_tests_name("element", tests, NULL, NULL);
}
