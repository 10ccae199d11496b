/* The first process of the kernel stage's guest: loads the modules named in /modules, in order,
   mounts the host's root over 9p, and runs the stage's script in it. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char command[4096];

int main(void) {
    char name[256];
    mkdir("/root", 0755);
    FILE *modules = fopen("/modules", "r");
    while (modules && fgets(name, sizeof name, modules)) {
        name[strcspn(name, "\n")] = 0;
        int file = open(name, O_RDONLY);
        if (syscall(SYS_finit_module, file, "", 0)) perror(name);
        close(file);
    }
    const char *options = "trans=virtio,version=9p2000.L,cache=loose,msize=262144";
    if (mount("root", "/root", "9p", MS_RDONLY, options)) perror("9p");
    mount("proc", "/root/proc", "proc", 0, "");
    mount("sys", "/root/sys", "sysfs", 0, "");
    mount("dev", "/root/dev", "devtmpfs", 0, "");
    mount("tmp", "/root/tmp", "tmpfs", 0, "");
    mount("run", "/root/run", "tmpfs", 0, "");
    mount("var", "/root/var/lib/bluetooth", "tmpfs", 0, "mode=0700");
    FILE *script = fopen("/command", "r");
    if (script) fgets(command, sizeof command, script);
    if (chroot("/root") || chdir("/")) perror("chroot");
    pid_t guest = fork();
    if (guest == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)0);
        perror("sh");
        _exit(127);
    }
    int status = 0;
    while (wait(&status) != guest) continue; /* orphans come to us as well */
    printf("\nguest exits with %d\n", WEXITSTATUS(status));
    fflush(stdout);
    reboot(RB_AUTOBOOT);
    return 0;
}
