/*
 * COM1, and the lines printed on it.
 *
 * A line is `@topic key=value key=value`, LF at its end. A beat is a single byte outside a line.
 */
#ifndef UART_H
#define UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void uart_setup(void);
void uart_put(char byte);
void uart_write(const char *bytes, size_t count);
bool uart_get(char *byte);

/* Lines of several CPUs do not mix: line() takes the lock and line_end() gives it back. */
void line(const char *topic);
void line_end(void);
void line_end_quiet(void);       /* and no beat comes after it */
void text(const char *string);
void put_hex(const char *key, uint64_t value);
void put_dec(const char *key, uint64_t value);
void put_text(const char *key, const char *value);
void put_bytes(const char *key, const void *bytes, size_t count);

/* A beat; `mark` goes before it in one piece, unless 0. */
void beat(char mark, char byte);

#endif
