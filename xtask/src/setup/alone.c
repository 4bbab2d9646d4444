/*
 * Loaded before a private sendmail: what it would ask this machine is answered here.
 *
 * Its name and the names and addresses of others come from the few lines below instead of the
 * hosts file and DNS (with a name that has no dot it would look for a better one for a minute
 * before it starts). What it would tell the system's log goes to the file SENDMAIL_LOG; without
 * that variable nothing is logged. sendmail empties its environment as it begins, hence the
 * constructor.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char NAME[] = "mx.equal.test";
static char log_file[4096];

__attribute__((constructor)) static void remember_log_file(void)
{
	const char *file = getenv("SENDMAIL_LOG");
	if (file != NULL && strlen(file) < sizeof log_file)
		strcpy(log_file, file);
}

int gethostname(char *name, size_t length)
{
	if (length < sizeof NAME)
		return -1;
	memcpy(name, NAME, sizeof NAME);
	return 0;
}

static struct hostent *answer(const char *name, in_addr_t ip)
{
	static char official[64];
	static in_addr_t address;
	static char *aliases[1], *addresses[2];
	static struct hostent host;

	strncpy(official, name, sizeof official - 1);
	address = ip;
	addresses[0] = (char *)&address;
	host.h_name = official;
	host.h_aliases = aliases;
	host.h_addrtype = AF_INET;
	host.h_length = sizeof address;
	host.h_addr_list = addresses;
	return &host;
}

struct hostent *gethostbyname2(const char *name, int family)
{
	in_addr_t ip = htonl(INADDR_LOOPBACK);
	int ours = strcmp(name, NAME) == 0 || strcmp(name, "localhost") == 0;
	if (family == AF_INET && (ours || inet_pton(AF_INET, name, &ip) == 1))
		return answer(name, ip);
	h_errno = HOST_NOT_FOUND;
	return NULL;
}

struct hostent *gethostbyaddr(const void *address, socklen_t length, int family)
{
	in_addr_t ip;
	/* All of 127.0.0.0/8. */
	if (family == AF_INET && length == sizeof ip && *(const char *)address == 127) {
		memcpy(&ip, address, sizeof ip);
		return answer("localhost", ip);
	}
	h_errno = HOST_NOT_FOUND;
	return NULL;
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
	char line[4096];
	va_list arguments;
	int length, file;

	(void)priority;
	(void)flag;
	if (log_file[0] == '\0')
		return;
	va_start(arguments, format);
	length = vsnprintf(line, sizeof line - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	if (length > (int)sizeof line - 2)
		length = (int)sizeof line - 2;
	line[length++] = '\n';
	file = open(log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0)
		return;
	if (write(file, line, (size_t)length) < 0) {
		/* A test that wants the line will miss it. */
	}
	close(file);
}
