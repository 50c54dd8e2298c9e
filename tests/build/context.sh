# The context of the cases in cases.txt, made in the current directory.
set -e
umask 022
mkdir -p dir/sub/deep void other/x
echo hello > f; echo gee > g; echo '#!/bin/sh' > exec.sh; chmod 755 exec.sh
echo a > dir/a; echo b > dir/b; echo c > dir/sub/c; echo d > dir/sub/deep/d; echo h > dir/sub/.hidden
ln -s f link; ln -s dir dirlink; ln -s a dir/inner; ln -s ../f dir/up; ln -s /nowhere dir/dangling
echo same > hard1; ln hard1 hard2; mkdir links; echo l > links/one; ln links/one links/two
echo s > 'sp ace'; echo 1 > a.c; echo 2 > b.c; echo 3 > c.h; echo p > other/x/p; echo q > other/q.c
echo s > setuid; chmod 4755 setuid; mkdir -m 700 private; echo k > private/k; chmod 600 private/k
mkdir t; mkdir t/top; echo in > t/top/in; ln -s in t/top/ln; chmod 750 t/top; echo x > t/run; chmod 755 t/run
tar -C t --owner=12 --group=34 --mtime=@1000000 -cf plain.tar top run
gzip -nc plain.tar > zipped.tar.gz; cp zipped.tar.gz odd.name; echo text > not.tar; gzip -nc f > f.gz
rm -r t
