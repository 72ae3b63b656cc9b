# Wire time by size from a csv of `moire bench exchange`: dispatch above, combine below, one line a back end, with the
# 95 % interval of the median.
#   gnuplot -e "file='exchange.csv'; picture='exchange.png'" benchmarks/exchange.gp
if (!exists("file")) file = 'exchange.csv'
if (!exists("picture")) picture = 'exchange.png'
# The table of times without the comments around it: bytes, back end, direction, wire, low, high.
table = "awk -F, '/^# table: /{inside = $0 == \"# table: times\"; next} /^#|^bytes/{next} inside' ".file
names = system(table." | cut -d, -f2 | awk '!seen[$0]++'")
rows(name, way) = "< ".table." | grep ',".name.",".way.",'"
title(way) = way.": from the last start to the last end"
set datafile separator ','
set terminal pngcairo size 900,1000 font ',11'
set output picture
set logscale x 2
set logscale y
set format x '%.0b%B'
set grid
set key outside right top
set ylabel 'microseconds'
set bars small
set multiplot layout 2,1 title file noenhanced
do for [way in "dispatch combine"] {
    set title title(way)
    if (way eq "combine") { set xlabel 'bytes from a rank to a rank' }
    plot for [i=1:words(names)] rows(word(names, i), way) using 1:4:5:6 with yerrorlines \
        lc i pt i lw 1.5 title word(names, i) noenhanced
}
unset multiplot
