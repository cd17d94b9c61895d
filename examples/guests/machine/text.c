#include "machine/text.h"

bool text_word_is(const char *word, const char *expected)
{
    return text_starts_with(word, expected) && text_is_end_of_word(word[text_length(expected)]);
}

/* The digit's value, or one that no base has. */
static unsigned digit_value(char digit)
{
    char lower_case = digit | 0x20;

    if (digit >= '0' && digit <= '9')
        return (unsigned)(digit - '0');
    if (lower_case >= 'a' && lower_case <= 'f')
        return (unsigned)(lower_case - 'a') + 10;
    return UINT8_MAX;
}

bool text_parse_number(const char **cursor, uint64_t *number)
{
    const char *digit = *cursor;
    unsigned base = 10;
    uint64_t value = 0;
    bool any = false;
    unsigned next;

    if (digit[0] == '0' && digit[1] == 'x') {
        base = 16;
        digit += 2;
    }
    for (next = digit_value(*digit); next < base; next = digit_value(*++digit)) {
        if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, next, &value))
            return false;
        any = true;
    }
    if (!any)
        return false;
    *cursor = digit;
    *number = value;
    return true;
}

bool text_parse_size(const char **cursor, uint64_t *bytes)
{
    const char *suffix = *cursor;
    unsigned shift = 0;
    uint64_t value;

    if (!text_parse_number(&suffix, &value))
        return false;
    switch (*suffix) {
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    }
    if (shift != 0) {
        suffix++;
        if (value > UINT64_MAX >> shift)
            return false;
    }
    *cursor = suffix;
    *bytes = value << shift;
    return true;
}

size_t text_format_number(char *digits, uint64_t number)
{
    char reversed[TEXT_NUMBER_BYTES];
    size_t length = 0;

    do {
        reversed[length++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    for (size_t i = 0; i < length; i++)
        digits[i] = reversed[length - 1 - i];
    return length;
}
