/* The address that belongs to a name in this benchmark. The upstream gives it and the load generator
 * expects it, so an answer that was meant for another name does not pass for a right one. */
#ifndef NAME_ADDRESS_H
#define NAME_ADDRESS_H

#include <stddef.h>
#include <stdint.h>

/* Where the question's name ends, just behind the root label; 0 if it does not, or is compressed. */
static inline size_t name_end(const uint8_t *message, size_t length)
{
    size_t at = 12;
    while (at < length && message[at] != 0) {
        if (message[at] > 63)
            return 0;
        at += message[at] + 1u;
    }
    return at < length && at - 12 < 255 ? at + 1 : 0;
}

/* 198.18.0.1 to 198.18.255.254 (RFC 2544: for benchmarks), in host order. Letter case does not count. */
static inline uint32_t name_address(const uint8_t *message, size_t end)
{
    uint32_t hash = 2166136261u;
    for (size_t at = 12; at < end; at++) {
        const uint8_t octet = message[at];
        hash = (hash ^ (octet >= 'A' && octet <= 'Z' ? octet | 0x20u : octet)) * 16777619u;
    }
    hash ^= hash >> 16;
    return 0xc6120000u | ((hash & 0xffff) % 0xfffe + 1);
}

#endif
