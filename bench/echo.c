/* The smallest DNS server that a resolver believes. In front of the load generator it is the
 * ceiling: what a query costs when nothing has to be decided. Behind a server under test it is
 * the only upstream, and counts what it is asked.
 *
 *     echo PORT SECONDS        on 127.0.0.1, gone after SECONDS at the latest
 *
 * A:                an address that follows from the name, 198.18.x.y, TTL 3600 (see name_address)
 * other types:      NODATA with a SOA record
 * any type, CH:     a TXT record with the number of IN queries answered so far
 * An OPT record is answered with an OPT record. What is not a plain query gets no answer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "name_address.h"

enum { AT_ONCE = 64, ROOM = 1024, LARGEST_QUERY = 512 };
enum { TYPE_A = 1, CLASS_IN = 1, CLASS_CH = 3 };

static unsigned long asked;

static uint8_t *put(uint8_t *at, const void *octets, size_t length)
{
    memcpy(at, octets, length);
    return at + length;
}

/* Make the answer out of the query, in place. Returns its length, 0 for no answer. */
static size_t answer(uint8_t *message, size_t length)
{
    static const uint8_t record_a[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4};
    static const uint8_t record_txt[] = {0xc0, 12, 0, 16, 0, 3, 0, 0, 0, 0, 0};
    /* owner: the root; TTL and MINIMUM 60 */
    static const uint8_t record_soa[] = {0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0, 0, 0, 0, 1,
                                         0, 0, 0x0e, 0x10, 0, 0, 2, 0x58, 0, 1, 0x51, 0x80, 0, 0, 0, 60};
    static const uint8_t record_opt[] = {0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0};

    const size_t end_of_name = name_end(message, length);
    const bool is_plain_query = length <= LARGEST_QUERY && end_of_name != 0 && end_of_name + 4 <= length &&
                                (message[2] & 0xf8) == 0 && message[4] == 0 && message[5] == 1;
    if (!is_plain_query)
        return 0;
    const unsigned type = message[end_of_name] << 8 | message[end_of_name + 1];
    const unsigned class = message[end_of_name + 2] << 8 | message[end_of_name + 3];
    const bool has_opt = message[11] != 0;
    uint8_t *end = message + end_of_name + 4;

    message[2] = 0x80 | (message[2] & 1); /* a response; RD as asked */
    message[3] = 0x80;                    /* RA, NOERROR */
    memset(message + 6, 0, 6);
    if (class == CLASS_CH) {
        char text[24];
        const int digits = snprintf(text, sizeof text, "%lu", asked);
        end = put(end, record_txt, sizeof record_txt);
        *end++ = (uint8_t)(digits + 1);
        *end++ = (uint8_t)digits;
        end = put(end, text, (size_t)digits);
        message[7] = 1;
        return (size_t)(end - message);
    }
    if (class != CLASS_IN)
        return 0;
    asked++;
    if (type == TYPE_A) {
        const uint32_t address = htonl(name_address(message, end_of_name));
        end = put(end, record_a, sizeof record_a);
        end = put(end, &address, sizeof address);
        message[7] = 1;
    } else {
        end = put(end, record_soa, sizeof record_soa);
        message[9] = 1;
    }
    if (has_opt) {
        end = put(end, record_opt, sizeof record_opt);
        message[11] = 1;
    }
    return (size_t)(end - message);
}

int main(int argc, char **argv)
{
    static uint8_t room[AT_ONCE][ROOM];
    static struct sockaddr_in client[AT_ONCE];
    static struct iovec octets[AT_ONCE];
    static struct mmsghdr in[AT_ONCE], out[AT_ONCE];

    if (argc != 3) {
        fputs("usage: echo PORT SECONDS\n", stderr);
        return 2;
    }
    alarm((unsigned)atoi(argv[2]));
    const int udp = socket(AF_INET, SOCK_DGRAM, 0), buffer = 4 << 20;
    const struct sockaddr_in here = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(udp, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    if (udp < 0 || bind(udp, (const struct sockaddr *)&here, sizeof here) != 0) {
        perror("echo");
        return 1;
    }
    for (;;) {
        for (int i = 0; i < AT_ONCE; i++) {
            octets[i] = (struct iovec){room[i], ROOM};
            in[i].msg_hdr = (struct msghdr){
                .msg_name = &client[i], .msg_namelen = sizeof client[i], .msg_iov = &octets[i], .msg_iovlen = 1};
        }
        const int received = recvmmsg(udp, in, AT_ONCE, MSG_WAITFORONE, NULL);
        int answers = 0;
        for (int i = 0; i < received; i++) {
            octets[i].iov_len = answer(room[i], in[i].msg_len);
            if (octets[i].iov_len != 0)
                out[answers++].msg_hdr = in[i].msg_hdr;
        }
        for (int sent = 0; sent < answers;) {
            const int now = sendmmsg(udp, out + sent, (unsigned)(answers - sent), 0);
            sent += now > 0 ? now : 1; /* one that cannot be sent is skipped */
        }
    }
}
