/* Asks a DNS server on 127.0.0.1 over UDP as fast as it answers, or at a steady rate, and checks every answer.
 *
 *     load PORT FILE SECONDS [-r RATE] [-n COUNT] [-w IN_FLIGHT] [-s SOCKETS] [-p PATIENCE_MS] [-g TAG]
 *
 * FILE has a line a query, asked in this order and again from the start; the type is A:
 *     b NAME     right is: blocked, which is NXDOMAIN, or 0.0.0.0 alone
 *     f NAME     right is: forwarded, which is the name's own address alone (name_address.h)
 *     n NAME     as f, with a label in front that was never asked: made of TAG and a counter
 * Any answer must also repeat the question octet for octet.
 *
 * Without -r a closed loop: IN_FLIGHT queries at any time, over all SOCKETS, so the server sets the pace.
 * With -r an open loop: query number i leaves at i/RATE seconds whatever came back, and its latency
 * counts from that moment, so that a server that stands still is seen to stand still.
 *
 * No query is sent again; one without an answer after PATIENCE_MS is lost. It ends after SECONDS or COUNT
 * queries, or on SIGINT or SIGTERM, and writes one JSON object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "name_address.h"

enum {
    HEADER = 12,
    LARGEST_QUERY = HEADER + 255 + 4,
    FRESH_LABEL = 16, /* octets of the label that makes a name a new one */
    MOST_SOCKETS = 64,
    SLOTS = 1024, /* per socket; an id is a slot's number and, above it, how often the slot was used */
    AT_ONCE = 64,
    MOST_LATENCIES = 1 << 23,
};

struct query {
    uint16_t length;
    char kind;
    uint8_t *octets;
};

struct slot {
    uint64_t due;    /* when it was sent, or ought to have been: nanoseconds */
    uint64_t sent;   /* for giving up */
    uint16_t id, length;
    char kind;
    bool waiting;
    uint8_t octets[LARGEST_QUERY];
};

struct client {
    int udp, unused_count;
    uint16_t unused[SLOTS]; /* the last one freed is used first: fewer cache lines */
    struct slot slots[SLOTS];
};

static struct query *queries;
static size_t query_count, next_query;
static struct client *clients;
static int client_count = 16, window; /* slots in use of each client */
static unsigned tag;
static uint64_t fresh_count, patience = 2000000000u;

static uint64_t sent, answered, lost, wrong, blocked, forwarded, let_through, stray, unsent;
static uint32_t latencies[MOST_LATENCIES]; /* tenths of a microsecond */
static size_t latency_count;
static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *room(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail("memory");
    return memory;
}

/* Write text as labels behind the header; returns the length of the whole query, 0 if the name is none. */
static size_t write_query(uint8_t *octets, const char *text, bool is_fresh)
{
    static const uint8_t header[HEADER] = {0, 0, 1, 0, 0, 1}, in_a[] = {0, 1, 0, 1};
    uint8_t *at = octets + HEADER, *const limit = octets + HEADER + 254;
    memcpy(octets, header, sizeof header);
    if (is_fresh) {
        *at++ = FRESH_LABEL;
        memset(at, '0', FRESH_LABEL);
        at += FRESH_LABEL;
    }
    while (*text != 0) {
        const size_t label = strcspn(text, ".");
        if (label == 0 || label > 63 || at + 1 + label > limit)
            return 0;
        *at++ = (uint8_t)label;
        memcpy(at, text, label);
        at += label;
        text += label + (text[label] == '.');
    }
    *at++ = 0;
    memcpy(at, in_a, sizeof in_a);
    return (size_t)(at + sizeof in_a - octets);
}

static void read_queries(const char *path)
{
    char kind, name[300];
    size_t space = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail(path);
    while (fscanf(file, " %c %299s", &kind, name) == 2) {
        uint8_t octets[LARGEST_QUERY];
        const size_t length = write_query(octets, name, kind == 'n');
        if (length == 0 || strchr("bfn", kind) == NULL) {
            fprintf(stderr, "load: %s: query %zu makes no sense\n", path, query_count + 1);
            exit(2);
        }
        if (query_count == space) {
            space = space == 0 ? 4096 : 2 * space;
            queries = realloc(queries, space * sizeof *queries);
            if (queries == NULL)
                fail("memory");
        }
        uint8_t *own = room(length);
        memcpy(own, octets, length);
        queries[query_count++] = (struct query){(uint16_t)length, kind, own};
    }
    fclose(file);
    if (query_count == 0) {
        fprintf(stderr, "load: %s: no query in it\n", path);
        exit(2);
    }
}

/* The next query of the file, into a slot. */
static void prepare(struct slot *slot, uint64_t due)
{
    const struct query *query = &queries[next_query];
    next_query = next_query + 1 == query_count ? 0 : next_query + 1;
    memcpy(slot->octets, query->octets, query->length);
    if (query->kind == 'n') {
        char label[FRESH_LABEL + 1];
        snprintf(label, sizeof label, "q%05x%010llx", tag & 0xfffff, (unsigned long long)fresh_count++ & 0xffffffffff);
        memcpy(slot->octets + HEADER + 1, label, FRESH_LABEL);
    }
    slot->id = (uint16_t)(slot->id + SLOTS);
    slot->octets[0] = (uint8_t)(slot->id >> 8);
    slot->octets[1] = (uint8_t)slot->id;
    slot->length = query->length;
    slot->kind = query->kind;
    slot->due = due;
    slot->waiting = true;
}

/* Send up to count queries from one client; interval 0: all are due now. Returns how many have gone. */
static int send_some(struct client *client, int count, uint64_t start, double interval)
{
    struct mmsghdr messages[AT_ONCE];
    struct iovec octets[AT_ONCE];
    struct slot *slots[AT_ONCE];
    const uint64_t now = clock_ns();
    int gone = 0;
    if (count > AT_ONCE)
        count = AT_ONCE;
    if (count > client->unused_count)
        count = client->unused_count;
    for (int i = 0; i < count; i++) {
        struct slot *slot = slots[i] = &client->slots[client->unused[--client->unused_count]];
        prepare(slot, interval > 0 ? start + (uint64_t)((double)(sent + (uint64_t)i) * interval) : now);
        slot->sent = now;
        octets[i] = (struct iovec){slot->octets, slot->length};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &octets[i], .msg_iovlen = 1};
    }
    while (gone < count) {
        const int more = sendmmsg(client->udp, messages + gone, (unsigned)(count - gone), 0);
        if (more > 0)
            gone += more;
        else if (errno == EAGAIN || errno == ENOBUFS)
            break;
        else if (errno != ECONNREFUSED && errno != EINTR) /* refused: what an earlier query met; the server may come back */
            fail("send");
    }
    for (int i = count - 1; i >= gone; i--) { /* the socket is full: these did not leave */
        slots[i]->waiting = false;
        client->unused[client->unused_count++] = (uint16_t)(slots[i]->id % SLOTS);
        unsent++;
    }
    sent += (uint64_t)gone;
    return gone;
}

/* What an answer says: 'b' blocked, 'f' forwarded, '?' neither. */
static char verdict(const uint8_t *answer, size_t length, size_t question_end)
{
    const unsigned rcode = answer[3] & 15, records = (unsigned)(answer[6] << 8 | answer[7]);
    size_t at = question_end;
    if ((answer[2] & 2) != 0) /* TC */
        return '?';
    if (rcode == 3)
        return records == 0 ? 'b' : '?';
    if (rcode != 0 || records != 1)
        return '?';
    while (at < length && answer[at] != 0 && answer[at] < 0xc0)
        at += answer[at] + 1u;
    at += at < length && answer[at] >= 0xc0 ? 2 : 1;
    static const uint8_t in_a[] = {0, 1, 0, 1}, length_4[] = {0, 4};
    if (at + 14 > length || memcmp(answer + at, in_a, 4) != 0 || memcmp(answer + at + 8, length_4, 2) != 0)
        return '?';
    uint32_t address;
    memcpy(&address, answer + at + 10, 4);
    if (address == 0)
        return 'b';
    return ntohl(address) == name_address(answer, question_end - 4) ? 'f' : '?';
}

static void judge(const struct slot *slot, const uint8_t *answer, size_t length)
{
    const bool is_echoed = length >= slot->length && answer[4] == 0 && answer[5] == 1 &&
                           memcmp(answer + HEADER, slot->octets + HEADER, slot->length - HEADER) == 0;
    const char is = is_echoed ? verdict(answer, length, slot->length) : '?';
    blocked += is == 'b';
    forwarded += is == 'f';
    let_through += slot->kind == 'b' && is == 'f';
    if (is != (slot->kind == 'b' ? 'b' : 'f') && ++wrong <= 3) {
        fprintf(stderr, "load: wrong answer, expected '%c', is '%c', rcode %d:", slot->kind, is, answer[3] & 15);
        for (size_t at = HEADER; slot->octets[at] != 0; at += slot->octets[at] + 1u)
            fprintf(stderr, "%s%.*s", at == HEADER ? " " : ".", slot->octets[at], (const char *)slot->octets + at + 1);
        fputc('\n', stderr);
    }
}

static void receive(struct client *client)
{
    static uint8_t buffers[AT_ONCE][2048];
    struct mmsghdr messages[AT_ONCE];
    struct iovec octets[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) {
        octets[i] = (struct iovec){buffers[i], sizeof buffers[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &octets[i], .msg_iovlen = 1};
    }
    const int count = recvmmsg(client->udp, messages, AT_ONCE, MSG_DONTWAIT, NULL);
    const uint64_t now = clock_ns();
    for (int i = 0; i < count; i++) {
        const uint8_t *answer = buffers[i];
        const unsigned id = (unsigned)(answer[0] << 8 | answer[1]);
        struct slot *slot = &client->slots[id % SLOTS];
        if (messages[i].msg_len < HEADER || (answer[2] & 0x80) == 0 || !slot->waiting || slot->id != id) {
            stray++;
            continue;
        }
        judge(slot, answer, messages[i].msg_len);
        answered++;
        if (latency_count < MOST_LATENCIES)
            latencies[latency_count++] = now > slot->due ? (uint32_t)((now - slot->due) / 100) : 0;
        slot->waiting = false;
        client->unused[client->unused_count++] = (uint16_t)(id % SLOTS);
    }
}

static void give_up(uint64_t now)
{
    for (int c = 0; c < client_count; c++)
        for (int s = 0; s < window; s++) {
            struct slot *slot = &clients[c].slots[s];
            if (slot->waiting && now > slot->sent + patience) {
                slot->waiting = false;
                clients[c].unused[clients[c].unused_count++] = (uint16_t)s;
                lost++;
            }
        }
}

static int smaller(const void *left, const void *right)
{
    const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double latency_us(double share)
{
    if (latency_count == 0)
        return 0;
    size_t place = (size_t)(share * (double)latency_count);
    return latencies[place < latency_count ? place : latency_count - 1] / 10.0;
}

static void connect_clients(uint16_t port)
{
    const struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int buffer = 4 << 20;
    clients = room((size_t)client_count * sizeof *clients);
    for (int c = 0; c < client_count; c++) {
        struct client *client = &clients[c];
        client->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(client->udp, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        setsockopt(client->udp, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        if (client->udp < 0 || connect(client->udp, (const struct sockaddr *)&server, sizeof server) != 0)
            fail("socket");
        for (int s = window - 1; s >= 0; s--) {
            client->slots[s].id = (uint16_t)s;
            client->unused[client->unused_count++] = (uint16_t)s;
        }
    }
}

int main(int argc, char **argv)
{
    double rate = 0;
    uint64_t count = UINT64_MAX;
    int in_flight = 160, option;
    while ((option = getopt(argc, argv, "r:n:w:s:p:g:")) != -1) {
        switch (option) {
        case 'r': rate = atof(optarg); break;
        case 'n': count = strtoull(optarg, NULL, 10); break;
        case 'w': in_flight = atoi(optarg); break;
        case 's': client_count = atoi(optarg); break;
        case 'p': patience = strtoull(optarg, NULL, 10) * 1000000u; break;
        case 'g': tag = (unsigned)strtoul(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    window = rate > 0 ? SLOTS : client_count > 0 ? (in_flight + client_count - 1) / client_count : 0;
    if (argc - optind != 3 || client_count < 1 || client_count > MOST_SOCKETS || window < 1 || window > SLOTS) {
        fputs("usage: load PORT FILE SECONDS [-r RATE] [-n COUNT] [-w IN_FLIGHT] [-s SOCKETS] [-p PATIENCE_MS] [-g TAG]\n",
              stderr);
        return 2;
    }
    read_queries(argv[optind + 1]);
    connect_clients((uint16_t)atoi(argv[optind]));
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
    prctl(PR_SET_TIMERSLACK, 1); /* the open loop keeps its times */

    struct pollfd waiting[MOST_SOCKETS];
    for (int c = 0; c < client_count; c++)
        waiting[c] = (struct pollfd){.fd = clients[c].udp, .events = POLLIN};
    const uint64_t start = clock_ns(), end = start + (uint64_t)(atof(argv[optind + 2]) * 1e9);
    const double interval = rate > 0 ? 1e9 / rate : 0;
    uint64_t stopped = 0, answered_in_time = 0, looked = start;
    int turn = 0;
    for (;;) {
        uint64_t now = clock_ns();
        if (stopped == 0 && (now >= end || sent >= count || interrupted)) {
            stopped = now;
            answered_in_time = answered;
        }
        if (stopped != 0 && answered + lost >= sent)
            break;
        uint64_t sleep = 5000000;
        if (stopped == 0 && rate > 0) {
            int64_t due = (int64_t)((double)(now - start) / interval) + 1 - (int64_t)sent;
            for (int c = 0; c < client_count && due > 0 && sent < count; c++, turn++)
                due -= send_some(&clients[turn % client_count], due < 8 ? (int)due : 8, start, interval);
            const uint64_t next = start + (uint64_t)((double)sent * interval);
            now = clock_ns();
            sleep = next <= now ? 0 : next - now < sleep ? next - now : sleep;
        } else if (stopped == 0) {
            for (int c = 0; c < client_count && sent < count; c++) {
                const uint64_t left = count - sent;
                send_some(&clients[c], left < AT_ONCE ? (int)left : AT_ONCE, start, 0);
            }
        }
        const struct timespec timeout = {0, (long)sleep};
        if (ppoll(waiting, (nfds_t)client_count, &timeout, NULL) > 0)
            for (int c = 0; c < client_count; c++)
                if (waiting[c].revents != 0)
                    receive(&clients[c]);
        if (now - looked > 50000000u) {
            give_up(now);
            looked = now;
        }
    }

    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    const double seconds = (double)(stopped - start) / 1e9;
    const double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    qsort(latencies, latency_count, sizeof *latencies, smaller);
    printf("{\"sent\": %llu, \"answered\": %llu, \"lost\": %llu, \"wrong\": %llu, \"blocked\": %llu, \"forwarded\": %llu, "
           "\"let_through\": %llu, \"stray\": %llu, \"unsent\": %llu, \"seconds\": %.4f, \"qps\": %.1f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"load_cpu_s\": %.3f}\n",
           (unsigned long long)sent, (unsigned long long)answered, (unsigned long long)lost, (unsigned long long)wrong,
           (unsigned long long)blocked, (unsigned long long)forwarded, (unsigned long long)let_through,
           (unsigned long long)stray, (unsigned long long)unsent, seconds,
           seconds > 0 ? (double)answered_in_time / seconds : 0, latency_us(0.5), latency_us(0.99), latency_us(1), cpu);
    return 0;
}
