/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena under the step-and-kill driver: every verb in every mode. See driver.h; not for valgrind and the
 * sanitizers.
 */
#include "driver_lock.h"

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    crash_lock_all(crash_lock_of_arena_mutex("arena mutex", false, 8));
    return crash_report();
}
