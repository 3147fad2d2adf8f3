/* HTTP load: CONNECTIONS keep-alive connections ask for REQUESTS bodies of one path in all.
 *
 * Usage: http_load ADDRESS PORT PATH CONNECTIONS REQUESTS SIZE [RANGE]
 *
 * With RANGE, each request asks for the next RANGE bytes of a file of SIZE bytes and must be
 * answered by 206; without, each asks for the whole file and must be answered by 200. Every answer
 * must have the length that was asked for. Prints seconds, bytes of bodies and the slowest answer
 * in seconds. Exit 1 with a sentence when an answer is another one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (256 * 1024)
#define HEAD 4096

struct client {
	int fd;
	char head[HEAD + 1];
	size_t head_length;
	long long left; /* of the body; -1 while the head is read */
	double asked;
	int done;
};

static const char *path;
static long long size, range, position;
static long started, finished, wanted;
static long long received;
static double slowest;
static char buffer[BUFFER];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what, const char *detail)
{
	fprintf(stderr, "%s: %.200s\n", what, detail);
	exit(1);
}

static void ask(struct client *one)
{
	char text[1024];
	int length;

	one->done = started == wanted;
	if (one->done)
		return;
	started++;
	length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: bench\r\nUser-Agent: load\r\n",
			  path);
	if (range) {
		long long end = position + range < size ? position + range : size;
		length += snprintf(text + length, sizeof text - length, "Range: bytes=%lld-%lld\r\n",
				   position, end - 1);
		position = end < size ? end : 0;
	}
	length += snprintf(text + length, sizeof text - length, "\r\n");
	one->asked = now();
	one->left = -1;
	one->head_length = 0;
	if (send(one->fd, text, length, MSG_NOSIGNAL) != length)
		die("send", strerror(errno));
}

static void finish(struct client *one)
{
	double seconds = now() - one->asked;
	if (seconds > slowest)
		slowest = seconds;
	finished++;
	ask(one);
}

/* Takes bytes until the empty line; gives how many of them belong to the body. */
static size_t take_head(struct client *one, const char *data, size_t length)
{
	size_t old = one->head_length, take = length < HEAD - old ? length : HEAD - old;
	char *end, *field;
	const char *status = range ? "HTTP/1.1 206 " : "HTTP/1.1 200 ";
	long long most = range ? range : size;

	memcpy(one->head + old, data, take);
	one->head_length += take;
	one->head[one->head_length] = 0;
	end = strstr(one->head, "\r\n\r\n");
	if (!end) {
		if (one->head_length == HEAD)
			die("head", "too long");
		return 0;
	}
	if (strncmp(one->head, status, strlen(status)))
		die("status", one->head);
	field = strcasestr(one->head, "\r\nContent-Length:");
	if (!field || field > end)
		die("no length", one->head);
	one->left = atoll(field + 17);
	if (one->left <= 0 || one->left > most || (!range && one->left != size))
		die("length", one->head);
	return one->head_length - (end + 4 - one->head) + (length - take);
}

static void receive(struct client *one)
{
	ssize_t got = recv(one->fd, buffer, BUFFER, 0);
	size_t body;

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0 && one->done) {
		close(one->fd); /* an idle connection may be ended */
		return;
	}
	if (got <= 0)
		die("closed", got ? strerror(errno) : "by the server");
	body = one->left >= 0 ? (size_t)got : take_head(one, buffer, got);
	if (one->left < 0)
		return;
	received += body;
	one->left -= body;
	if (one->left < 0)
		die("body", "more than was announced");
	if (!one->left)
		finish(one);
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct epoll_event events[256];
	struct client *clients;
	int connections, epoll = epoll_create1(0), on = 1;
	double began;

	if (argc < 7)
		die("usage", "ADDRESS PORT PATH CONNECTIONS REQUESTS SIZE [RANGE]");
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	to.sin_port = htons(atoi(argv[2]));
	path = argv[3];
	connections = atoi(argv[4]);
	wanted = atol(argv[5]);
	size = atoll(argv[6]);
	range = argc > 7 ? atoll(argv[7]) : 0;
	clients = calloc(connections, sizeof *clients);
	for (int i = 0; i < connections; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
		clients[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(clients[i].fd, (struct sockaddr *)&to, sizeof to))
			die("connect", strerror(errno));
		setsockopt(clients[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		fcntl(clients[i].fd, F_SETFL, O_NONBLOCK);
		epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &event);
	}
	began = now();
	for (int i = 0; i < connections; i++)
		ask(&clients[i]);
	while (finished < wanted) {
		int ready = epoll_wait(epoll, events, 256, 30000);
		if (ready <= 0)
			die("nothing came", "for 30 seconds");
		for (int i = 0; i < ready; i++)
			receive(events[i].data.ptr);
	}
	printf("%.6f %lld %.6f\n", now() - began, received, slowest);
	return 0;
}
