/*
 * A filter on top of libmilter that does what a file says.
 *
 *   sample -p SOCKET -s SCRIPT -l LOG
 *
 * The script is read at each negotiation and holds for that connection, so that one process can
 * negotiate any mask. One directive a line, words separated by one tab:
 *
 *   actions HEX            what it asks for, within what is offered
 *   steps HEX              the same for the steps and answers that it does without
 *   symbols STAGE NAMES    the macros that it asks for, by libmilter's number of the stage
 *   verdict STAGE WORD     what it answers there: accept, reject, tempfail, discard, skip, reply
 *   reply CODE XCODE TEXT  the text of the verdict "reply"
 *   add NAME VALUE, insert INDEX NAME VALUE, change NAME INDEX VALUE, delete NAME INDEX,
 *   rcpt ADDRESS, rcptargs ADDRESS ARGS, unrcpt ADDRESS, from ADDRESS ARGS, body TEXT,
 *   quarantine TEXT, progress, count
 *                          edits at the end of the message, in this order; "count" adds a field
 *                          with the number of the message on its connection
 *
 * The log gets a line for everything that it is told, flushed at once; a body is one line whatever
 * its pieces were, with its size and a sum over its octets.
 */
#include <libmilter/mfapi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINES 64
#define WORDS 5

struct line {
	char *text;
	char *words[WORDS];
};

struct state {
	struct line lines[LINES];
	int count;
	unsigned long steps;
	unsigned long messages;
	unsigned long body_size;
	unsigned long body_sum;
	int body_seen;
};

static const char *script_path, *log_path;
static FILE *log_file;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

/* Writes octets so that they are one word of a line. */
static void escaped(const char *text)
{
	for (; *text != '\0'; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte < 0x20 || byte > 0x7e || byte == '\\')
			fprintf(log_file, "\\%02x", byte);
		else
			fputc(byte, log_file);
	}
}

/* Writes the macros that are known at a stage. */
static void macros(SMFICTX *ctx)
{
	static char *names[] = { "j", "{daemon_name}", "i", "{mail_addr}", "{rcpt_addr}",
		"{rcpt_mailer}", "{auth_type}", "{client_addr}" };

	for (size_t at = 0; at < sizeof names / sizeof names[0]; at++) {
		char *value = smfi_getsymval(ctx, names[at]);

		if (value != NULL) {
			fprintf(log_file, " %s=", names[at]);
			escaped(value);
		}
	}
}

/* A line of the log: the stage, the words up to a null pointer, the macros. */
static void heard(SMFICTX *ctx, const char *stage, ...)
{
	va_list words;
	const char *word;

	pthread_mutex_lock(&log_lock);
	fputs(stage, log_file);
	va_start(words, stage);
	while ((word = va_arg(words, const char *)) != NULL) {
		fputs(" [", log_file);
		escaped(word);
		fputc(']', log_file);
	}
	va_end(words);
	macros(ctx);
	fputc('\n', log_file);
	fflush(log_file);
	pthread_mutex_unlock(&log_lock);
}

static const struct line *find(const struct state *state, const char *key, const char *first)
{
	for (int at = 0; at < state->count; at++) {
		char *const *words = state->lines[at].words;

		if (words[0] == NULL || strcmp(words[0], key) != 0)
			continue;
		if (first == NULL || (words[1] != NULL && strcmp(words[1], first) == 0))
			return &state->lines[at];
	}
	return NULL;
}

static unsigned long mask(const struct state *state, const char *key)
{
	const struct line *line = find(state, key, NULL);

	return line == NULL || line->words[1] == NULL ? 0 : strtoul(line->words[1], NULL, 16);
}

/* What the script wants to be answered, or what means "go on". */
static sfsistat answer(SMFICTX *ctx, const char *stage, unsigned long unanswered)
{
	const struct state *state = smfi_getpriv(ctx);
	const struct line *line;
	const char *word;

	if (state == NULL)
		return SMFIS_TEMPFAIL;
	if ((state->steps & unanswered) != 0)
		return SMFIS_NOREPLY;
	line = find(state, "verdict", stage);
	if (line == NULL || (word = line->words[2]) == NULL)
		return SMFIS_CONTINUE;
	if (strcmp(word, "accept") == 0)
		return SMFIS_ACCEPT;
	if (strcmp(word, "tempfail") == 0)
		return SMFIS_TEMPFAIL;
	if (strcmp(word, "discard") == 0)
		return SMFIS_DISCARD;
	if (strcmp(word, "skip") == 0)
		return SMFIS_SKIP;
	if (strcmp(word, "reply") == 0) {
		line = find(state, "reply", NULL);
		if (line == NULL || smfi_setreply(ctx, line->words[1], line->words[2],
		    line->words[3]) != MI_SUCCESS)
			return SMFIS_TEMPFAIL;
		return line->words[1][0] == '4' ? SMFIS_TEMPFAIL : SMFIS_REJECT;
	}
	return SMFIS_REJECT;
}

static void forget(struct state *state)
{
	for (int at = 0; at < state->count; at++)
		free(state->lines[at].text);
	free(state);
}

static struct state *read_script(void)
{
	struct state *state = calloc(1, sizeof *state);
	FILE *file = fopen(script_path, "r");
	size_t size = 0;

	if (state == NULL || file == NULL) {
		free(state);
		if (file != NULL)
			fclose(file);
		return NULL;
	}
	while (state->count < LINES) {
		struct line *line = &state->lines[state->count];
		char *rest;

		if (getline(&line->text, &size, file) < 0)
			break;
		size = 0;
		state->count++;
		rest = line->text;
		rest[strcspn(rest, "\n")] = '\0';
		for (int at = 0; at < WORDS && rest != NULL; at++)
			line->words[at] = strsep(&rest, "\t");
	}
	fclose(file);
	return state;
}

static sfsistat on_negotiate(SMFICTX *ctx, unsigned long actions, unsigned long steps,
	unsigned long f2, unsigned long f3, unsigned long *out_actions, unsigned long *out_steps,
	unsigned long *out2, unsigned long *out3)
{
	struct state *old = smfi_getpriv(ctx);
	struct state *state = read_script();

	(void)f2;
	(void)f3;
	if (old != NULL)
		forget(old);
	smfi_setpriv(ctx, state);
	if (state == NULL)
		return SMFIS_REJECT;
	*out_actions = actions & mask(state, "actions");
	*out_steps = steps & mask(state, "steps");
	*out2 = *out3 = 0;
	state->steps = *out_steps;
	for (int at = 0; at < state->count; at++) {
		char *const *words = state->lines[at].words;

		if (words[0] != NULL && strcmp(words[0], "symbols") == 0 && words[2] != NULL)
			smfi_setsymlist(ctx, atoi(words[1]), words[2]);
	}
	return SMFIS_CONTINUE;
}

static sfsistat on_connect(SMFICTX *ctx, char *host, _SOCK_ADDR *address)
{
	if (smfi_getpriv(ctx) == NULL) {
		/* Another client on a connection that was kept: nothing is negotiated anew. */
		struct state *state = read_script();

		if (state != NULL)
			state->steps = mask(state, "steps");
		smfi_setpriv(ctx, state);
	}
	heard(ctx, "connect", host, address == NULL ? "unknown" :
	    address->sa_family == AF_INET ? "inet" : "other", NULL);
	return answer(ctx, "connect", SMFIP_NR_CONN);
}

static sfsistat on_helo(SMFICTX *ctx, char *name)
{
	heard(ctx, "helo", name, NULL);
	return answer(ctx, "helo", SMFIP_NR_HELO);
}

static sfsistat on_mail(SMFICTX *ctx, char **args)
{
	struct state *state = smfi_getpriv(ctx);

	if (state != NULL) {
		state->body_size = state->body_sum = 0;
		state->body_seen = 0;
	}
	heard(ctx, "mail", args[0], args[1], args[1] == NULL ? NULL : args[2], NULL);
	return answer(ctx, "mail", SMFIP_NR_MAIL);
}

static sfsistat on_rcpt(SMFICTX *ctx, char **args)
{
	heard(ctx, "rcpt", args[0], args[1], args[1] == NULL ? NULL : args[2], NULL);
	return answer(ctx, "rcpt", SMFIP_NR_RCPT);
}

static sfsistat on_data(SMFICTX *ctx)
{
	heard(ctx, "data", NULL);
	return answer(ctx, "data", SMFIP_NR_DATA);
}

static sfsistat on_unknown(SMFICTX *ctx, const char *line)
{
	heard(ctx, "unknown", line, NULL);
	return answer(ctx, "unknown", SMFIP_NR_UNKN);
}

static sfsistat on_header(SMFICTX *ctx, char *name, char *value)
{
	heard(ctx, "header", name, value, NULL);
	return answer(ctx, "header", SMFIP_NR_HDR);
}

static sfsistat on_eoh(SMFICTX *ctx)
{
	heard(ctx, "eoh", NULL);
	return answer(ctx, "eoh", SMFIP_NR_EOH);
}

static sfsistat on_body(SMFICTX *ctx, unsigned char *piece, size_t size)
{
	struct state *state = smfi_getpriv(ctx);

	for (size_t at = 0; state != NULL && at < size; at++)
		state->body_sum = (state->body_sum * 31 + piece[at]) & 0xffffffffUL;
	if (state != NULL) {
		state->body_size += size;
		state->body_seen = 1;
	}
	return answer(ctx, "body", SMFIP_NR_BODY);
}

static int edit(SMFICTX *ctx, struct state *state, char *const *w)
{
	char number[32];

	if (strcmp(w[0], "add") == 0 && w[2] != NULL)
		return smfi_addheader(ctx, w[1], w[2]);
	if (strcmp(w[0], "insert") == 0 && w[3] != NULL)
		return smfi_insheader(ctx, atoi(w[1]), w[2], w[3]);
	if (strcmp(w[0], "change") == 0 && w[3] != NULL)
		return smfi_chgheader(ctx, w[1], atoi(w[2]), w[3]);
	if (strcmp(w[0], "delete") == 0 && w[2] != NULL)
		return smfi_chgheader(ctx, w[1], atoi(w[2]), NULL);
	if (strcmp(w[0], "rcpt") == 0 && w[1] != NULL)
		return smfi_addrcpt(ctx, w[1]);
	if (strcmp(w[0], "rcptargs") == 0 && w[2] != NULL)
		return smfi_addrcpt_par(ctx, w[1], w[2]);
	if (strcmp(w[0], "unrcpt") == 0 && w[1] != NULL)
		return smfi_delrcpt(ctx, w[1]);
	if (strcmp(w[0], "from") == 0 && w[2] != NULL)
		return smfi_chgfrom(ctx, w[1], w[2]);
	if (strcmp(w[0], "body") == 0 && w[1] != NULL)
		return smfi_replacebody(ctx, (unsigned char *)w[1], (int)strlen(w[1]));
	if (strcmp(w[0], "quarantine") == 0 && w[1] != NULL)
		return smfi_quarantine(ctx, w[1]);
	if (strcmp(w[0], "progress") == 0)
		return smfi_progress(ctx);
	if (strcmp(w[0], "count") == 0) {
		snprintf(number, sizeof number, "%lu", state->messages);
		return smfi_addheader(ctx, "X-Count", number);
	}
	return MI_SUCCESS;
}

static sfsistat on_eom(SMFICTX *ctx)
{
	struct state *state = smfi_getpriv(ctx);
	char size[32], sum[32];

	if (state == NULL)
		return SMFIS_TEMPFAIL;
	state->messages++;
	snprintf(size, sizeof size, "%lu", state->body_size);
	snprintf(sum, sizeof sum, "%08lx", state->body_sum);
	if (state->body_seen)
		heard(ctx, "body", size, sum, NULL);
	heard(ctx, "eom", NULL);
	for (int at = 0; at < state->count; at++) {
		if (state->lines[at].words[0] == NULL)
			continue;
		/* What the mask does not allow, libmilter refuses: that is part of the log. */
		if (edit(ctx, state, state->lines[at].words) != MI_SUCCESS)
			heard(ctx, "refused", state->lines[at].words[0], NULL);
	}
	state->body_size = state->body_sum = 0;
	state->body_seen = 0;
	return answer(ctx, "eom", 0);
}

static sfsistat on_abort(SMFICTX *ctx)
{
	struct state *state = smfi_getpriv(ctx);

	if (state != NULL) {
		state->body_size = state->body_sum = 0;
		state->body_seen = 0;
	}
	heard(ctx, "abort", NULL);
	return SMFIS_CONTINUE;
}

static sfsistat on_close(SMFICTX *ctx)
{
	struct state *state = smfi_getpriv(ctx);

	/* Whoever did not negotiate only looked whether somebody listens. */
	if (state == NULL)
		return SMFIS_CONTINUE;
	heard(ctx, "close", NULL);
	forget(state);
	smfi_setpriv(ctx, NULL);
	return SMFIS_CONTINUE;
}

int main(int count, char **arguments)
{
	static struct smfiDesc filter = {
		.xxfi_name = "sample",
		.xxfi_version = SMFI_VERSION,
		.xxfi_flags = SMFIF_NONE,
		.xxfi_connect = on_connect,
		.xxfi_helo = on_helo,
		.xxfi_envfrom = on_mail,
		.xxfi_envrcpt = on_rcpt,
		.xxfi_header = on_header,
		.xxfi_eoh = on_eoh,
		.xxfi_body = on_body,
		.xxfi_eom = on_eom,
		.xxfi_abort = on_abort,
		.xxfi_close = on_close,
		.xxfi_unknown = on_unknown,
		.xxfi_data = on_data,
		.xxfi_negotiate = on_negotiate,
	};
	char *socket = NULL;
	int option;

	while ((option = getopt(count, arguments, "p:s:l:")) != -1) {
		if (option == 'p')
			socket = optarg;
		else if (option == 's')
			script_path = optarg;
		else if (option == 'l')
			log_path = optarg;
	}
	if (socket == NULL || script_path == NULL || log_path == NULL) {
		fprintf(stderr, "usage: %s -p SOCKET -s SCRIPT -l LOG\n", arguments[0]);
		return 64;
	}
	log_file = fopen(log_path, "a");
	if (log_file == NULL) {
		perror(log_path);
		return 73;
	}
	if (smfi_setconn(socket) != MI_SUCCESS || smfi_register(filter) != MI_SUCCESS) {
		fprintf(stderr, "%s: libmilter refuses the socket or the filter\n", arguments[0]);
		return 69;
	}
	return smfi_main() == MI_SUCCESS ? 0 : 69;
}
