/* libtcc refers to stdout, stderr and environ by PC-relative addresses, which a shared library must not do. The build
 * renames these three inside libtcc's object; here are the variables they become. libtcc only writes to them on
 * errors it cannot report otherwise. */
#include <stdio.h>
#include <unistd.h>

FILE *es_tcc_stdout, *es_tcc_stderr;
char **es_tcc_environ;

__attribute__((constructor)) static void set_streams(void) {
  es_tcc_stdout = stdout;
  es_tcc_stderr = stderr;
  es_tcc_environ = environ;
}
