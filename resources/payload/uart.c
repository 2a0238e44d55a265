#include "uart.h"
#include "cpu.h"

#define COM1            0x3f8
#define DATA            (COM1 + 0)
#define INTERRUPTS      (COM1 + 1)
#define FIFO_CONTROL    (COM1 + 2)
#define LINE_CONTROL    (COM1 + 3)
#define LINE_STATUS     (COM1 + 5)

#define DATA_READY      0x01
#define HOLDING_EMPTY   0x20
#define FIFO_DEPTH      16

static uint32_t lock;
static uint32_t room;           /* bytes that the transmit FIFO takes without being asked again */
static bool beating;            /* the last byte was a beat: a line starts on a line of its own */
static bool quiet;              /* no beat goes out any more */

static void acquire(void)
{
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        pause();
}

static void release(void)
{
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

void uart_setup(void)
{
    out8(INTERRUPTS, 0);
    out8(LINE_CONTROL, 0x03);           /* 8 bits, no parity, one stop bit */
    out8(FIFO_CONTROL, 0x01);           /* FIFOs on, not emptied: input may be waiting */
    out8(COM1 + 4, 0x03);               /* data terminal ready, request to send */
}

/* An empty FIFO takes 16 bytes, so the line status is read once for 16. */
void uart_put(char byte)
{
    if (room == 0) {
        while (!(in8(LINE_STATUS) & HOLDING_EMPTY))
            pause();
        room = FIFO_DEPTH;
    }
    room--;
    out8(DATA, (uint8_t)byte);
}

/* In string instructions of at most a FIFO's depth. */
void uart_write(const char *bytes, size_t count)
{
    while (count != 0) {
        size_t some = count < FIFO_DEPTH ? count : FIFO_DEPTH;

        while (!(in8(LINE_STATUS) & HOLDING_EMPTY))
            pause();
        room = 0;
        out8_string(DATA, bytes, some);
        bytes += some;
        count -= some;
    }
}

bool uart_get(char *byte)
{
    if (!(in8(LINE_STATUS) & DATA_READY))
        return false;
    *byte = (char)in8(DATA);
    return true;
}

void text(const char *string)
{
    while (*string != 0)
        uart_put(*string++);
}

void line(const char *topic)
{
    acquire();
    if (beating)
        uart_put('\n');
    beating = false;
    uart_put('@');
    text(topic);
}

void line_end(void)
{
    uart_put('\n');
    release();
}

/* After a reset nobody knows that a beat came last, so none may follow this line. */
void line_end_quiet(void)
{
    quiet = true;
    line_end();
}

static void put_key(const char *key)
{
    uart_put(' ');
    text(key);
    uart_put('=');
}

static char digit(uint64_t value)
{
    return "0123456789abcdef"[value & 15];
}

void put_hex(const char *key, uint64_t value)
{
    int shift = 60;

    put_key(key);
    text("0x");
    while (shift > 0 && value >> shift == 0)
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        uart_put(digit(value >> shift));
}

void put_dec(const char *key, uint64_t value)
{
    char digits[20];
    int count = 0;

    put_key(key);
    do {
        digits[count++] = digit(value % 10);
        value /= 10;
    } while (value != 0);
    while (count != 0)
        uart_put(digits[--count]);
}

void put_text(const char *key, const char *value)
{
    put_key(key);
    text(value);
}

void put_bytes(const char *key, const void *bytes, size_t count)
{
    const uint8_t *byte = bytes;

    put_key(key);
    for (; count != 0; count--, byte++) {
        uart_put(digit(*byte >> 4));
        uart_put(digit(*byte));
    }
}

void beat(char mark, char byte)
{
    acquire();
    if (!quiet) {
        if (mark != 0)
            uart_put(mark);
        uart_put(byte);
        beating = true;
    }
    release();
}
