# MOIRE_OPTIONS: --enable-debug, --enable-sanitize.
AC_DEFUN([MOIRE_OPTIONS], [
  AC_ARG_ENABLE([debug], [AS_HELP_STRING([--enable-debug], [assertions; a run fails when a counted allocation is left])], [], [enable_debug=no])
  AC_ARG_ENABLE([sanitize], [AS_HELP_STRING([--enable-sanitize], [AddressSanitizer and UndefinedBehaviorSanitizer; implies --enable-debug])], [], [enable_sanitize=no])
  AS_IF([test "x$enable_sanitize" = xyes], [
    enable_debug=yes
    MOIRE_CFLAGS="$MOIRE_CFLAGS -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
    MOIRE_OPTIMISE="-O1 -g"])
  AS_IF([test "x$enable_debug" = xyes], [
    MOIRE_CPPFLAGS="-DMOIRE_DEBUG"
    AS_IF([test "x$enable_sanitize" != xyes], [MOIRE_OPTIMISE="-O2 -g"])])
  MOIRE_CFLAGS="$MOIRE_CFLAGS $MOIRE_OPTIMISE"
  AC_SUBST([MOIRE_CPPFLAGS])
  AM_CONDITIONAL([SANITIZE], [test "x$enable_sanitize" = xyes])
])
