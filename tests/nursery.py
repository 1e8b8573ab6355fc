"A process that has imported what takes long: each job runs in a fork of it."
import json,subprocess,sys
from contextlib import contextmanager

source = """
for line in sys.stdin:
    job = json.loads(line)
    if not (pid := os.fork()):
        if job['env'] is not None: os.environ.clear(); os.environ.update(job['env'])
        os.chdir(job['cwd'])
        sys.argv[1:] = job['args']
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for i,name in enumerate(('stdout', 'stderr'), 1): os.dup2(os.open(name, os.O_WRONLY|os.O_CREAT|os.O_TRUNC), i)
        code = 0
        try: exec(job['code'], {})
        except BaseException: traceback.print_exc(); code = 1
        sys.stdout.flush(); sys.stderr.flush(); os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

@contextmanager
def nursery(imports, **how):
    "A function that runs code in a fork, with what it prints in the files stdout and stderr of its folder; gives the exit code"
    command = [sys.executable, '-c', f'import json,os,sys,traceback\n{imports}\n{source}']
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how)
    def run(code, cwd, args=(), env=None):
        job = dict(code=code, cwd=str(cwd), args=[str(a) for a in args], env=env)
        p.stdin.write(json.dumps(job)+'\n')
        p.stdin.flush()
        return int(p.stdout.readline())
    yield run
    p.stdin.close()
    p.wait()
