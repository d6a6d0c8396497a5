/* SPDX-License-Identifier: MIT */
#include <polyshm/element.h>

#include <stdint.h>

static const struct {
    const char *token;
    pshm_element element;
} elements[] = {
#define X(name, token, ctype, letter) {token, {PSHM_##name, sizeof(ctype), false, letter}},
    PSHM_ELEMENT_MAP(X)
#undef X
};

int pshm_element_parse(const char *token, size_t length, pshm_element *out)
{
    const bool big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
    bool swap = false;
    if (length && (token[0] == '<' || token[0] == '>' || token[0] == '=')) {
        swap = token[0] != '=' && (token[0] == '>') != big;
        token++;
        length--;
    }
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
        if (strlen(elements[i].token) == length && memcmp(elements[i].token, token, length) == 0) {
            *out = elements[i].element;
            out->swap = swap && out->size > 1;
            return 0;
        }
    }
    return PSHM_ETYPE;
}
