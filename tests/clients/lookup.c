/* Resolves a name and connects to it as an application does, and tells on one line of JSON how that went. Built with
 * glibc and with musl.
 *
 *   lookup NAME PORT 4|6|any
 *   lookup PATTERN PORT 4|6 FIRST COUNT POOL    COUNT rounds; the n-th name is PATTERN with (FIRST + n) % POOL in it
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static const char *resolver_error(int code)
{
    switch (code) {
    case EAI_NONAME: return "EAI_NONAME";
    case EAI_AGAIN: return "EAI_AGAIN";
    case EAI_FAIL: return "EAI_FAIL";
    case EAI_SYSTEM: return "EAI_SYSTEM";
#ifdef EAI_NODATA
    case EAI_NODATA: return "EAI_NODATA";
#endif
    default: return gai_strerror(code);
    }
}

static const char *connect_error(int code)
{
    switch (code) {
    case 0: return "ok";
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ECONNREFUSED: return "ECONNREFUSED";
    case EHOSTUNREACH: return "EHOSTUNREACH";
    case ENETUNREACH: return "ENETUNREACH";
    /* A connect that SO_SNDTIMEO ends. */
    case EINPROGRESS: return "ETIMEDOUT";
    default: return strerror(code);
    }
}

static int connect_once(const struct addrinfo *to)
{
    struct timeval limit = { .tv_sec = 3 };
    int made = socket(to->ai_family, SOCK_STREAM, 0), code = errno;
    if (made < 0)
        return code;
    setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    code = connect(made, to->ai_addr, to->ai_addrlen) ? errno : 0;
    close(made);
    return code;
}

static int resolve(const char *name, const char *port, const char *family, struct addrinfo **found)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    hints.ai_family = *family == '4' ? AF_INET : *family == '6' ? AF_INET6 : AF_UNSPEC;
    return getaddrinfo(name, port, &hints, found);
}

static int once(char **args)
{
    struct addrinfo *found = NULL, *one;
    const char *separator = "", *outcome = NULL;
    char text[INET6_ADDRSTRLEN];
    long start = microseconds();
    int code = resolve(args[0], args[1], args[2], &found);
    printf("{\"resolve_us\":%ld,\"error\":", microseconds() - start);
    printf(code ? "\"%s\"" : "null", resolver_error(code));
    printf(",\"addresses\":[");
    for (one = code ? NULL : found; one; one = one->ai_next, separator = ",") {
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        printf("%s\"%s\"", separator, text);
    }
    start = microseconds();
    for (one = code ? NULL : found; one && (!outcome || strcmp(outcome, "ok")); one = one->ai_next)
        outcome = connect_error(connect_once(one));
    printf("],\"connect\":");
    printf(outcome ? "\"%s\"" : "null", outcome);
    printf(",\"connect_us\":%ld}\n", microseconds() - start);
    return 0;
}

static int rounds(char **args)
{
    long first = atol(args[3]), count = atol(args[4]), pool = atol(args[5]);
    long unresolved = 0, lost = 0, worst = 0;
    char name[256], failure[300] = "";
    for (long n = 0; n < count; n++) {
        struct addrinfo *found = NULL;
        const char *star = strchr(args[0], '*');
        snprintf(name, sizeof name, "%.*s%ld%s", (int)(star - args[0]), args[0], (first + n) % pool, star + 1);
        long start = microseconds();
        int code = resolve(name, args[1], args[2], &found);
        int refused = code ? 0 : connect_once(found);
        long took = microseconds() - start;
        if (took > worst)
            worst = took;
        unresolved += code != 0;
        lost += refused != 0;
        if ((code || refused) && !*failure)
            snprintf(failure, sizeof failure, "%s: %s", name, code ? resolver_error(code) : connect_error(refused));
        if (!code)
            freeaddrinfo(found);
    }
    printf("{\"rounds\":%ld,\"unresolved\":%ld,\"lost\":%ld,\"worst_us\":%ld,\"first_failure\":\"%s\"}\n",
           count, unresolved, lost, worst, failure);
    return 0;
}

int main(int count, char **args)
{
    if (count == 4)
        return once(args + 1);
    if (count == 7 && strchr(args[1], '*'))
        return rounds(args + 1);
    fprintf(stderr, "usage: lookup NAME PORT 4|6|any, or lookup PREFIX*SUFFIX PORT 4|6 FIRST COUNT POOL\n");
    return 2;
}
