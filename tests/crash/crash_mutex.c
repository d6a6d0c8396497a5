/* SPDX-License-Identifier: MIT
 *
 * seg.mutex under the step-and-kill driver: every verb in every mode. See driver.h; not for valgrind and the
 * sanitizers.
 */
#include "driver_lock.h"

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    crash_lock_all(crash_lock_of_mutex("mutex", false));
    return crash_report();
}
