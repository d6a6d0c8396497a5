/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on segments and their bytes.
 */
#include "peer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pshm_segment *segment_of(const char *name)
{
    return peer_find(name, PEER_SEGMENT)->segment;
}

unsigned char *peer_unhex(const char *text, uint64_t *size)
{
    size_t length = strcmp(text, "-") ? strlen(text) / 2 : 0;
    unsigned char *bytes = malloc(length + 1);
    if (!bytes)
        abort();
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            abort();
        bytes[i] = (unsigned char)byte;
    }
    *size = length;
    return bytes;
}

void peer_say_hex(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        peer_say("%02x", ((const unsigned char *)bytes)[i]);
}

static int read_options(const peer_words *words, pshm_options *options)
{
    static const char *const accesses[] = {"rw", "r", "copy", "none"};
    const char *text;
    if ((text = peer_option(words, 2, "size")) != NULL)
        options->size = peer_number(text);
    if ((text = peer_option(words, 2, "offset")) != NULL)
        options->offset = peer_number(text);
    if ((text = peer_option(words, 2, "create")) != NULL)
        options->create = *text == '1';
    if ((text = peer_option(words, 2, "exclusive")) != NULL)
        options->exclusive = *text == '1';
    if ((text = peer_option(words, 2, "inherit")) != NULL)
        options->inherit = *text == '1';
    if ((text = peer_option(words, 2, "reserve")) != NULL)
        options->reserve = *text == '1';
    if ((text = peer_option(words, 2, "access")) != NULL)
        for (int i = 0; i < 4; i++)
            if (!strcmp(text, accesses[i]))
                options->access = (pshm_access)i;
    text = peer_option(words, 2, "mode");
    return text ? pshm_mode_parse(text, strlen(text), &options->mode) : 0;
}

static int do_open(const peer_words *words)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    pshm_segment *segment;
    int rc = read_options(words, &options);
    if (!rc)
        rc = pshm_segment_open(words->word[1], strlen(words->word[1]), &options, &segment);
    if (rc)
        return rc;
    peer_make(words->word[0], PEER_SEGMENT)->segment = segment;
    peer_say(" %llu %s %d %d %d %s %s", (unsigned long long)segment->size, pshm_kind_name(segment->kind),
             segment->created, segment->readonly, segment->fd, *segment->name ? segment->name : "-", segment->address);
    return 0;
}

static int do_close(const peer_words *words)
{
    peer_thing *thing = peer_find(words->word[0], PEER_SEGMENT);
    pshm_segment_close(thing->segment);
    pshm_segment_release(thing->segment);
    thing->kind = PEER_FREE;
    return 0;
}

static int do_size(const peer_words *words)
{
    peer_say(" %llu", (unsigned long long)segment_of(words->word[0])->size);
    return 0;
}

static int do_lost(const peer_words *words)
{
    peer_say(" %d", segment_of(words->word[0])->lost != 0);
    return 0;
}

static int do_resize(const peer_words *words)
{
    return pshm_segment_resize(segment_of(words->word[0]), peer_number(words->word[1]));
}

static int do_unlink(const peer_words *words)
{
    return pshm_segment_unlink(segment_of(words->word[0]));
}

static int do_set(const peer_words *words)
{
    uint32_t mode;
    int rc = pshm_mode_parse(words->word[1], strlen(words->word[1]), &mode);
    return rc ? rc : pshm_segment_set(segment_of(words->word[0]), -1, -1, mode);
}

static void say_stat(const pshm_stat *stat, const char *address, char separator)
{
    peer_say(" kind=%s%caddress=", pshm_kind_name(stat->kind), separator);
    peer_say_hex(address, strlen(address));
#define X(field, text)                                                                                                 \
    if (stat->field != PSHM_NONE)                                                                                      \
        peer_say("%c" #field "=%lld", separator, (long long)stat->field);
    PSHM_STAT_MAP(X)
#undef X
}

static int do_segstat(const peer_words *words)
{
    pshm_stat stat;
    pshm_segment *segment = segment_of(words->word[0]);
    int rc = pshm_segment_stat(segment, &stat);
    if (!rc)
        say_stat(&stat, segment->address, ' ');
    return rc;
}

static int do_stat(const peer_words *words)
{
    pshm_stat stat;
    int rc = pshm_stat_address(words->word[0], strlen(words->word[0]), &stat);
    if (!rc)
        say_stat(&stat, words->word[0], ' ');
    return rc;
}

static int do_list(const peer_words *words)
{
    pshm_stat *list;
    size_t count;
    (void)words;
    int rc = pshm_list(&list, &count);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++)
        say_stat(&list[i], list[i].address, ';');
    pshm_list_free(list);
    return 0;
}

static int do_exists(const peer_words *words)
{
    int rc = pshm_exists(words->word[0], strlen(words->word[0]));
    if (rc < 0)
        return rc;
    peer_say(" %d", rc);
    return 0;
}

static int do_remove(const peer_words *words)
{
    return pshm_unlink(words->word[0], strlen(words->word[0]));
}

static int do_read(const peer_words *words)
{
    uint64_t size = peer_number(words->word[2]);
    unsigned char *bytes = malloc(size + 1);
    if (!bytes)
        abort();
    int rc = pshm_segment_read(segment_of(words->word[0]), peer_number(words->word[1]), bytes, size);
    if (!rc) {
        peer_say(size ? " " : " -");
        peer_say_hex(bytes, size);
    }
    free(bytes);
    return rc;
}

static int do_write(const peer_words *words)
{
    uint64_t size;
    unsigned char *bytes = peer_unhex(words->word[2], &size);
    int rc = pshm_segment_write(segment_of(words->word[0]), peer_number(words->word[1]), bytes, size);
    free(bytes);
    return rc;
}

static int do_fill(const peer_words *words)
{
    return pshm_segment_fill(segment_of(words->word[0]), (int)peer_number(words->word[1]), peer_number(words->word[2]),
                             peer_number(words->word[3]));
}

static int do_copy(const peer_words *words)
{
    return pshm_segment_copy(segment_of(words->word[0]), peer_number(words->word[1]), peer_number(words->word[2]),
                             peer_number(words->word[3]));
}

static int do_find(const peer_words *words)
{
    uint64_t size;
    int64_t at;
    pshm_segment *segment = segment_of(words->word[0]);
    unsigned char *bytes = peer_unhex(words->word[1], &size);
    int rc = pshm_segment_find(segment, bytes, size, 0, segment->size, &at);
    free(bytes);
    if (!rc)
        peer_say(" %lld", (long long)at);
    return rc;
}

/* ---- elements: a C program has no views, it has its own types; the byte order is element.h's ----------------------- */

static void encode(const pshm_element *element, const char *text, void *to)
{
    switch (element->type) {
#define INTEGER(name, ctype)                                                                                           \
    case PSHM_##name: {                                                                                                \
        ctype value = (ctype)peer_number(text);                                                                        \
        memcpy(to, &value, sizeof value);                                                                              \
        break;                                                                                                         \
    }
        INTEGER(I8, int8_t)
        INTEGER(U8, uint8_t)
        INTEGER(I16, int16_t)
        INTEGER(U16, uint16_t)
        INTEGER(I32, int32_t)
        INTEGER(U32, uint32_t)
        INTEGER(I64, int64_t)
        INTEGER(U64, uint64_t)
#undef INTEGER
    case PSHM_F32: {
        float value = strtof(text, NULL);
        memcpy(to, &value, sizeof value);
        break;
    }
    case PSHM_F64: {
        double value = strtod(text, NULL);
        memcpy(to, &value, sizeof value);
        break;
    }
    }
    if (element->swap)
        pshm_element_swap(to, element->size);
}

static void say_float(double value)
{
    if (isnan(value))
        peer_say(" nan");
    else if (isinf(value))
        peer_say(value < 0 ? " -inf" : " inf");
    else
        peer_say(" %a", value);
}

static void decode(const pshm_element *element, void *from)
{
    if (element->swap)
        pshm_element_swap(from, element->size);
    switch (element->type) {
#define INTEGER(name, ctype, format, wide)                                                                             \
    case PSHM_##name: {                                                                                                \
        ctype value;                                                                                                   \
        memcpy(&value, from, sizeof value);                                                                            \
        peer_say(format, (wide)value);                                                                                 \
        break;                                                                                                         \
    }
        INTEGER(I8, int8_t, " %lld", long long)
        INTEGER(U8, uint8_t, " %llu", unsigned long long)
        INTEGER(I16, int16_t, " %lld", long long)
        INTEGER(U16, uint16_t, " %llu", unsigned long long)
        INTEGER(I32, int32_t, " %lld", long long)
        INTEGER(U32, uint32_t, " %llu", unsigned long long)
        INTEGER(I64, int64_t, " %lld", long long)
        INTEGER(U64, uint64_t, " %llu", unsigned long long)
#undef INTEGER
    case PSHM_F32: {
        float value;
        memcpy(&value, from, sizeof value);
        say_float((double)value);
        break;
    }
    case PSHM_F64: {
        double value;
        memcpy(&value, from, sizeof value);
        say_float(value);
        break;
    }
    }
}

static int do_store(const peer_words *words)
{
    pshm_element element;
    pshm_segment *segment = segment_of(words->word[0]);
    int rc = pshm_element_parse(words->word[1], strlen(words->word[1]), &element);
    uint64_t offset = peer_number(words->word[2]);
    for (int i = 3; i < words->count && !rc; i++, offset += element.size) {
        unsigned char bytes[8];
        encode(&element, words->word[i], bytes);
        rc = pshm_segment_write(segment, offset, bytes, element.size);
    }
    return rc;
}

static int do_load(const peer_words *words)
{
    pshm_element element;
    pshm_segment *segment = segment_of(words->word[0]);
    int rc = pshm_element_parse(words->word[1], strlen(words->word[1]), &element);
    uint64_t offset = peer_number(words->word[2]), count = peer_number(words->word[3]);
    for (uint64_t i = 0; i < count && !rc; i++, offset += element.size) {
        unsigned char bytes[8];
        rc = pshm_segment_read(segment, offset, bytes, element.size);
        if (!rc)
            decode(&element, bytes);
    }
    return rc;
}

const peer_command peer_segment_commands[] = {
    {"open", 2, do_open},     {"close", 1, do_close}, {"size", 1, do_size},     {"lost", 1, do_lost},
    {"resize", 2, do_resize}, {"set", 2, do_set},     {"unlink", 1, do_unlink}, {"segstat", 1, do_segstat},
    {"stat", 1, do_stat},     {"list", 0, do_list},   {"exists", 1, do_exists}, {"remove", 1, do_remove},
    {"read", 3, do_read},     {"write", 3, do_write}, {"fill", 4, do_fill},     {"copy", 4, do_copy},
    {"find", 2, do_find},     {"store", 3, do_store}, {"load", 4, do_load},     {NULL, 0, NULL},
};
