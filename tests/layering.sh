# The order of folders is the order of dependencies: a file includes only headers of its own folder and of those before it. And
# some things have one place only.
. "${top_srcdir:-.}/tests/support/tap.sh"
cd "$top_srcdir" || exit 1
order="base cluster observe compute exchange moe model io train cli"
before=" "
for folder in $order; do
    before="$before$folder "
    bad=
    # compute, moe and model do not know io; io does not know them either.
    case $folder in io) allowed=" base cluster observe io " ;; *) allowed=$before ;; esac
    for file in src/"$folder"/*.[ch] include/moire/"$folder"/*.h; do
        [ -f "$file" ] || continue
        for used in $(sed -n -E 's|^#include "(moire/)?([a-z]+)/.*|\2|p' "$file" | sort -u); do
            case $allowed in *" $used "*) ;; *) bad="$bad $file:$used" ;; esac
        done
    done
    if [ -z "$bad" ]; then pass "$folder includes only what is before it"; else fail "$folder includes:$bad"; fi
done

# only NAME PATTERN FOLDERS: the pattern stands in no source outside the folders.
only() {
    name=$1 pattern=$2 folders=$3
    found=$(grep -l -E "$pattern" src/*/*.[ch] include/moire/*/*.h | grep -v -E "^(src|include/moire)/($folders)/" || true)
    if [ -z "$found" ]; then pass "$name"; else fail "$name; found in $(echo "$found" | tr '\n' ' ')"; fi
}
only "only compute calls BLAS" 'cblas_|openblas' compute
only "only io uses HDF5" 'hdf5\.h|H5[A-Z][a-z]' io
only "only observe reads clocks" 'clock_gettime|gettimeofday|MPI_Wtime' observe
only "only cluster uses hwloc" 'hwloc[./_]' cluster
only "only exchange uses UCX" '#include <uc[pst]/|uc[ps]_[a-z]+_' exchange
only "only base opens files" '[^a-z_](fopen|open|creat)\(' 'base|io'
only "only exchange moves rows between ranks" 'MPI_I?[Aa]lltoall' exchange
only "only train and cli end a process" '[^a-z_](exit|abort|_exit)\(' 'base|cluster|train|cli'
only "memory comes from moire_allocate" '[^a-z_](malloc|calloc|realloc|aligned_alloc)\(' base
only "nobody calls PMPI" 'PMPI_' nowhere

long=$(awk 'FNR > 500 && !seen[FILENAME]++ { print FILENAME }' src/*/*.[ch] include/moire/*/*.h tests/*/*.[ch])
if [ -z "$long" ]; then pass "no file over 500 lines"; else fail "files over 500 lines: $(echo "$long" | tr '\n' ' ')"; fi
finish
