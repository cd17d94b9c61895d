#include "machine/command_line.h"

#include <stddef.h>

#include "machine/boot.h"
#include "machine/console.h"
#include "machine/power.h"
#include "machine/text.h"

const char *command_line_value(const char *key, const char *position)
{
    const char *word = position == NULL ? boot_command_line() : position;
    const char *end = word + text_length(word);
    size_t key_length = text_length(key);

    /* A position to go on from stands in a value, which cannot look like a word of its own. */
    if (position != NULL)
        word = text_find(word, end, ' ');
    while (word < end) {
        if (text_starts_with(word, key) && word[key_length] == '=')
            return word + key_length + 1;
        word = text_find(word, end, ' ') + 1;
    }
    return NULL;
}

uint64_t command_line_number(const char *key, uint64_t fallback)
{
    const char *value = command_line_value(key, NULL);
    uint64_t number;

    if (value == NULL)
        return fallback;
    if (!text_parse_number(&value, &number) || !text_is_end_of_word(*value))
        command_line_reject(key);
    return number;
}

uint64_t command_line_size(const char *key, uint64_t fallback)
{
    const char *value = command_line_value(key, NULL);
    uint64_t bytes;

    if (value == NULL)
        return fallback;
    if (!text_parse_size(&value, &bytes) || !text_is_end_of_word(*value))
        command_line_reject(key);
    return bytes;
}

void command_line_reject(const char *key)
{
    console_print("argument ");
    console_print(key);
    console_print("= is not understood\n");
    power_exit(EXIT_USAGE);
}
