/* SPDX-License-Identifier: MIT
 *
 * Victims of other languages: a command is executed, and a software breakpoint on a C symbol of the module it has
 * loaded marks the start of the operation; the return address marks its end. x86-64 alone.
 */
#include "driver_trace.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long an interpreter may take to come to its operation. */
#define START_MS 20000

#if defined(__x86_64__)

/* The address of a function in a file's own symbol table, hidden or not, relative to where the file is loaded. */
static bool find_symbol(const char *path, const char *symbol, uintptr_t *value, bool *fixed)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    bool found = false;
    if (fd < 0 || fstat(fd, &st))
        return false;
    const char *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED)
        return false;
    const ElfW(Ehdr) *head = (const void *)file;
    const ElfW(Shdr) *sections = (const void *)(file + head->e_shoff);
    *fixed = head->e_type == ET_EXEC;
    for (unsigned i = 0; i < head->e_shnum && !found; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        const ElfW(Sym) *symbols = (const void *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t j = 0; j < sections[i].sh_size / sizeof *symbols && !found; j++) {
            if (ELF64_ST_TYPE(symbols[j].st_info) == STT_FUNC && strcmp(names + symbols[j].st_name, symbol) == 0) {
                *value = symbols[j].st_value;
                found = true;
            }
        }
    }
    munmap((void *)(uintptr_t)file, (size_t)st.st_size);
    return found;
}

static uintptr_t address_of(pid_t pid, const char *module, const char *symbol)
{
    char path[64], line[4096];
    uintptr_t found = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    while (maps && !found && fgets(line, sizeof line, maps)) {
        unsigned long start, offset;
        int name = 0;
        if (sscanf(line, "%lx-%*x %*s %lx %*s %*s %n", &start, &offset, &name) < 2 || !name || offset)
            continue;
        char *file = line + name, *base;
        file[strcspn(file, "\n")] = '\0';
        base = strrchr(file, '/');
        uintptr_t value;
        bool fixed;
        if (base && strncmp(base + 1, module, strlen(module)) == 0 && find_symbol(file, symbol, &value, &fixed))
            found = fixed ? value : start + value;
    }
    if (maps)
        fclose(maps);
    return found;
}

static bool read_line(int fd)
{
    char byte;
    for (;;) {
        ssize_t got = read(fd, &byte, 1);
        if (got == 1 && byte == '\n')
            return true;
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
    }
}

static int wait_stop(crash_traced *t, int signal)
{
    for (;;) {
        int status;
        if (crash_wait(t->pid, &status, START_MS) != t->pid)
            return crash_fail("the program does not stop"), -1;
        if (!WIFSTOPPED(status)) {
            t->pid = 0;
            return crash_fail("the program ended before its operation"), -1;
        }
        if (WSTOPSIG(status) == signal || status >> 16 == PTRACE_EVENT_STOP)
            return 0;
        ptrace(PTRACE_CONT, t->pid, NULL, (void *)(uintptr_t)WSTOPSIG(status));
    }
}

static int start(crash_traced *t, char *const *program)
{
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return -1;
    t->pid = fork();
    if (t->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execvp(program[0], program);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    t->in = in[1];
    t->out = out[0];
    return t->pid < 0 ? -1 : 0;
}

/* The program runs until it calls the function: the breakpoint is in its first byte, and out again. */
static int run_to(crash_traced *t, uintptr_t function)
{
    errno = 0;
    unsigned long code = (unsigned long)ptrace(PTRACE_PEEKTEXT, t->pid, (void *)function, NULL);
    if (errno || ptrace(PTRACE_POKETEXT, t->pid, (void *)function, (void *)((code & ~0xfful) | 0xcc)) ||
        ptrace(PTRACE_CONT, t->pid, NULL, NULL) || write(t->in, "\n", 1) != 1)
        return crash_fail("breakpoint: %s", strerror(errno)), -1;
    if (wait_stop(t, SIGTRAP))
        return -1;
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, t->pid, NULL, &registers) || registers.rip != function + 1)
        return crash_fail("stopped, but not at the breakpoint"), -1;
    registers.rip = function;
    t->end_pc = (uintptr_t)ptrace(PTRACE_PEEKDATA, t->pid, (void *)registers.rsp, NULL);
    t->end_sp = registers.rsp + 8;
    if (ptrace(PTRACE_POKETEXT, t->pid, (void *)function, (void *)code) ||
        ptrace(PTRACE_SETREGS, t->pid, NULL, &registers))
        return crash_fail("breakpoint: %s", strerror(errno)), -1;
    return 0;
}

int crash_trace_program(crash_traced *t, const crash_case *c)
{
    *t = (crash_traced){.in = -1, .out = -1, .watched = c->watched, .watched_size = c->watched_size};
    if (start(t, c->program))
        return crash_fail("%s: %s", c->program[0], strerror(errno)), -1;
    if (!read_line(t->out))
        return crash_fail("%s did not get ready", c->program[0]), -1;
    uintptr_t function = address_of(t->pid, c->module, c->symbol);
    if (!function)
        return crash_fail("no function %s in %s", c->symbol, c->module), -1;
    if (ptrace(PTRACE_SEIZE, t->pid, NULL, (void *)(uintptr_t)PTRACE_O_EXITKILL) ||
        ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL))
        return crash_fail("ptrace: %s", strerror(errno)), -1;
    if (wait_stop(t, SIGTRAP) || run_to(t, function))
        return -1;
    return crash_trace_look(t);
}

#else

int crash_trace_program(crash_traced *t, const crash_case *c)
{
    (void)c;
    t->pid = 0;
    return crash_fail("executed programs are stepped on x86-64 alone"), -1;
}

#endif
