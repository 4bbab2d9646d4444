/*
 * Loaded into a foreign program ahead of the C library: its resolver asks the name server of the
 * test, at RESOLVER_ADDRESS and RESOLVER_PORT, and no other. A program of which one of the two is
 * not told asks nobody.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <resolv.h>
#include <stdlib.h>
#include <string.h>

int __res_ninit(res_state state)
{
	int (*init)(res_state) = (int (*)(res_state))dlsym(RTLD_NEXT, "__res_ninit");
	const char *address = getenv("RESOLVER_ADDRESS");
	const char *port = getenv("RESOLVER_PORT");
	struct sockaddr_in server;

	if (init == NULL || address == NULL || port == NULL || init(state) != 0)
		return -1;
	memset(&server, 0, sizeof server);
	server.sin_family = AF_INET;
	server.sin_port = htons((unsigned short)atoi(port));
	if (inet_pton(AF_INET, address, &server.sin_addr) != 1)
		return -1;
	state->nscount = 1;
	state->nsaddr_list[0] = server;
	state->retrans = 2;
	state->retry = 1;
	return 0;
}
