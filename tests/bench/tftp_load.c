/*
 * TFTP clients in one thread: `tftp_load SERVER PORT FILE BLKSIZE WINDOWSIZE CLIENTS TIMES` fetches
 * FILE that often with so many clients at once, and prints bytes, seconds and repeated requests.
 *
 * Every client has a socket of its own, acknowledges the end of a window, the last block and where
 * a gap begins (RFC 7440, 4), and asks again after a second of silence. Exit code 1 on an ERROR
 * packet, or when a file is not as long as the first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6, BATCH = 32, PACKET = 65536, PATIENCE = 30 };

struct client {
    int sock, times, window, in_window, has_gap, silent;
    size_t block;
    uint64_t next, bytes;
    double heard;
    struct sockaddr_in peer;
    char said[4];
};

static struct sockaddr_in server;
static char request[600];
static size_t request_size, asked_block;
static int asked_window, selector;
static uint64_t total, expected_size, repeats;
static unsigned char buffers[BATCH][PACKET];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void die(const char *text)
{
    fprintf(stderr, "tftp_load: %s\n", text);
    exit(1);
}

static size_t put(size_t at, const char *text)
{
    strcpy(request + at, text);
    return at + strlen(text) + 1;
}

static void write_request(const char *file, const char *block, const char *window)
{
    request[1] = RRQ;
    request_size = put(put(2, file), "octet");
    if (asked_block != 512)
        request_size = put(put(request_size, "blksize"), block);
    if (asked_window != 1)
        request_size = put(put(request_size, "windowsize"), window);
}

static void ask(struct client *one)
{
    sendto(one->sock, request, request_size, 0, (struct sockaddr *)&server, sizeof server);
}

static void begin(struct client *one)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    int size = 1 << 21;
    one->sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (one->sock < 0 || epoll_ctl(selector, EPOLL_CTL_ADD, one->sock, &event))
        die(strerror(errno));
    setsockopt(one->sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    one->block = 512;
    one->window = 1;
    one->next = 1;
    one->bytes = one->in_window = one->has_gap = one->silent = one->peer.sin_port = 0;
    one->heard = now();
    ask(one);
}

static void acknowledge(struct client *one, uint64_t block)
{
    one->said[1] = ACK;
    one->said[2] = block >> 8;
    one->said[3] = block;
    one->in_window = 0;
    send(one->sock, one->said, 4, 0);
}

/* RFC 2347: what the server agreed to; what it left out stays as it was. */
static void agree(struct client *one, const char *data, size_t size)
{
    for (size_t at = 2; at < size;) {
        const char *name = data + at, *value = name + strlen(name) + 1;
        if (!strcasecmp(name, "blksize"))
            one->block = strtoul(value, NULL, 10);
        if (!strcasecmp(name, "windowsize"))
            one->window = strtoul(value, NULL, 10);
        at += strlen(name) + strlen(value) + 2;
    }
    acknowledge(one, 0);
}

/* Returns whether the file is complete. */
static int take(struct client *one, unsigned char *data, size_t size)
{
    uint16_t number = data[2] << 8 | data[3];
    if (size < 4 || data[1] == ERROR)
        die(size > 4 ? (char *)data + 4 : "a short packet");
    if (data[1] == OACK) {
        data[size] = 0;
        if (one->next == 1)
            agree(one, (char *)data, size);
        return 0;
    }
    if (data[1] != DATA)
        die("neither DATA nor OACK");
    if (number != (uint16_t)one->next) {
        if (!one->has_gap)
            acknowledge(one, one->next - 1);
        one->has_gap = 1;
        return 0;
    }
    one->has_gap = 0;
    one->bytes += size - 4;
    one->next++;
    one->in_window++;
    if (size - 4 < one->block || one->in_window == one->window)
        acknowledge(one, one->next - 1);
    return size - 4 < one->block;
}

static int read_some(struct client *one)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    if (!one->peer.sin_port) {
        socklen_t length = sizeof one->peer;
        ssize_t size = recvfrom(one->sock, buffers[0], PACKET - 1, 0,
                                (struct sockaddr *)&one->peer, &length);
        if (size < 0)
            return 0;
        connect(one->sock, (struct sockaddr *)&one->peer, length);
        return take(one, buffers[0], size);
    }
    int most = one->window == 1 ? 1 : BATCH;
    for (int i = 0; i < most; i++) {
        parts[i] = (struct iovec){buffers[i], PACKET - 1};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(one->sock, messages, most, 0, NULL);
    for (int i = 0; i < count; i++)
        if (take(one, buffers[i], messages[i].msg_len))
            return 1;
    return 0;
}

static int ended(struct client *one)
{
    close(one->sock);
    total += one->bytes;
    if (!expected_size)
        expected_size = one->bytes;
    if (one->bytes != expected_size)
        die("a file is not as long as the first");
    if (--one->times == 0)
        return 1;
    begin(one);
    return 0;
}

static void repeat(struct client *clients, int count, double time)
{
    for (int i = 0; i < count; i++) {
        struct client *one = clients + i;
        if (!one->times || time - one->heard < 1)
            continue;
        if (++one->silent == PATIENCE)
            die("the server is silent");
        repeats++;
        one->heard = time;
        if (one->peer.sin_port)
            acknowledge(one, one->next - 1);
        else
            ask(one);
    }
}

int main(int count, char **words)
{
    if (count != 8)
        die("SERVER PORT FILE BLKSIZE WINDOWSIZE CLIENTS TIMES");
    asked_block = atoi(words[4]);
    asked_window = atoi(words[5]);
    int clients_count = atoi(words[6]), left = clients_count;
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
    if (inet_pton(AF_INET, words[1], &server.sin_addr) != 1)
        die("SERVER is no address");
    write_request(words[3], words[4], words[5]);
    selector = epoll_create1(0);
    struct client *clients = calloc(clients_count, sizeof *clients);
    double started = now(), checked = started;
    for (int i = 0; i < clients_count; i++) {
        clients[i].times = atoi(words[7]);
        begin(clients + i);
    }
    while (left) {
        struct epoll_event events[64];
        int ready = epoll_wait(selector, events, 64, 200);
        double time = now();
        for (int i = 0; i < ready; i++) {
            struct client *one = events[i].data.ptr;
            one->heard = time;
            one->silent = 0;
            if (read_some(one))
                left -= ended(one);
        }
        if (time - checked > 0.2) {
            repeat(clients, clients_count, time);
            checked = time;
        }
    }
    printf("%llu %.6f %llu\n", (unsigned long long)total, now() - started,
           (unsigned long long)repeats);
    return 0;
}
