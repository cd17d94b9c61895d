/*
 * Init of a Linux guest: runs the program that stands, a word a line, in /etc/function, as its child, and powers off when
 * that ends. The kernel hands it the words NAME=VALUE of its command line as environment, and it hands them on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAXIMUM 16

static char words[4096];
static char *arguments[WORDS_MAXIMUM + 1];

static int read_arguments(void)
{
    FILE *file = fopen("/etc/function", "r");
    size_t count = 0, length;
    char *word;

    if (file == NULL)
        return -1;
    length = fread(words, 1, sizeof words - 1, file);
    fclose(file);
    words[length] = '\0';
    for (word = strtok(words, "\n"); word != NULL && count < WORDS_MAXIMUM; word = strtok(NULL, "\n"))
        arguments[count++] = word;
    return count > 0 ? 0 : -1;
}

int main(void)
{
    pid_t child, ended;
    int status = 0;

    if (read_arguments() != 0) {
        fprintf(stderr, "init: /etc/function names no program\n");
    } else if ((child = fork()) == 0) {
        execv(arguments[0], arguments);
        perror(arguments[0]);
        _exit(127);
    } else if (child > 0) {
        /* Orphans are this process's to bury. */
        do
            ended = wait(&status);
        while (ended >= 0 && ended != child);
        fprintf(stderr, "init: %s ended with status %d\n", arguments[0], status);
    }
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}
