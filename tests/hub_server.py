"""A small Hugging Face Hub on this machine, for tests: the part of its HTTP API that huggingface_hub uses to make a model repository, commit to it and read it.

`Hub()` is a context manager; its `url` goes into HF_ENDPOINT of a client process (the library reads that when it is imported). Files of *.safetensors are kept as LFS objects, which
are served by a redirect to another host name, as on the Hub; all others come directly. `seen` lists the requests."""
import base64,hashlib,json,os,re,threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from urllib.parse import unquote,urlsplit
import yaml

owner,token = 'someone','hf_tokenofsomeone'

class Repo:
    "Commits (id -> path -> content) and refs (branch or tag -> id)"
    def __init__(self, private=False): self.private,self.gated,self.commits,self.refs = private,False,{},{}; self.commit({'.gitattributes': b'*.safetensors filter=lfs\n'})
    def commit(self, changes, branch='main'):
        "Add files (None deletes one) on top of a branch; the new commit's id"
        files = {**self.files(branch), **changes} if branch in self.refs else dict(changes)
        files = {n: d for n,d in files.items() if d is not None}
        oid = hashlib.sha1(repr((len(self.commits), sorted((n, hashlib.sha256(d).hexdigest()) for n,d in files.items()))).encode()).hexdigest()
        self.commits[oid],self.refs[branch] = files,oid
        return oid
    def resolve(self, rev): return self.refs.get(rev) or (rev if rev in self.commits else None)
    def files(self, rev): return self.commits[self.resolve(rev)]

def is_lfs(path): return path.endswith('.safetensors')
def blob_id(data): return hashlib.sha1(b'blob %d\0' % len(data)+data).hexdigest()

class Reply(Exception):
    def __init__(self, status, body=b'', **headers): self.status,self.body,self.headers = status,body,{k.replace('_', '-'): str(v) for k,v in headers.items()}

def refuse(status, message, code=None): raise Reply(status, dict(error=message), X_Error_Message=message, **(dict(X_Error_Code=code) if code else {}))

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

    def _serve(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.hub.seen.append((self.command, self.path, self.headers.get('Authorization')))
        try: self._route(unquote(urlsplit(self.path).path), body); refuse(404, 'Not found')
        except Reply as r: reply = r
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for k,v in {'Content-Type': 'application/json', 'Content-Length': str(len(data)), **reply.headers}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data[:len(data)//2] if self.hub.cut and '/cdn/' in self.path else data)
        if self.hub.cut: self.close_connection = True
    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _route(self, path, body):
        if self.hub.broken: refuse(self.hub.broken, 'Internal Error')
        auth = self.headers.get('Authorization')
        self.user = owner if auth==f'Bearer {token}' else None
        if auth and not self.user and not path.startswith('/cdn/'): refuse(401, 'Invalid credentials in Authorization header')
        for method,pattern,f in routes:
            if method in (self.command, '*') and (m := re.fullmatch(pattern, path)): f(self, body, **m.groupdict())

    def repo(self, name, rev=None):
        "The repository, and the commit of a revision, as far as this user may see them"
        r = self.hub.repos.get(name)
        if r is None or r.private and not self.user: refuse(404 if self.user else 401, 'Repository not found', 'RepoNotFound')
        if r.gated: refuse(403, 'Access to this model is restricted', 'GatedRepo')
        if rev is None: return r
        if not r.resolve(rev): refuse(404, f'Invalid rev id: {rev}', 'RevisionNotFound')
        return r,r.resolve(rev)

    def writer(self, name):
        if not self.user: refuse(401, 'Invalid username or password.')
        if not name.startswith(self.user+'/'): refuse(403, f"You don't have the rights to create a model under this namespace: {name}")

    def whoami(self, body): raise Reply(200 if self.user else 401, dict(type='user', name=self.user, orgs=[], auth={}))

    def create(self, body):
        d = json.loads(body)
        name = f"{d.get('organization') or self.user}/{d['name']}"
        self.writer(name)
        if name in self.hub.repos: raise Reply(409, dict(url=f'{self.hub.url}/{name}', error='You already created this model repo'))
        self.hub.repos[name] = Repo(d.get('visibility')=='private')
        raise Reply(200, dict(url=f'{self.hub.url}/{name}', name=name, id=name))

    def validate(self, body):
        text = json.loads(body)['content']
        try: yaml.safe_load(text.split('---')[1])
        except Exception as e: raise Reply(400, dict(errors=[dict(message=str(e))], warnings=[]))
        raise Reply(200, dict(errors=[], warnings=[]))

    def info(self, body, name, rev='main'):
        r,oid = self.repo(name, rev)
        raise Reply(200, dict(_id='1', id=name, modelId=name, author=owner, sha=oid, private=r.private, gated=False, disabled=False, tags=[], downloads=0, likes=0, siblings=[dict(rfilename=n) for n in r.commits[oid]]))

    def tree(self, body, name, rev, under=''):
        r,oid = self.repo(name, rev)
        found = {n: d for n,d in r.commits[oid].items() if n.startswith(under)}
        if under and not found: refuse(404, f'{under} does not exist', 'EntryNotFound')
        raise Reply(200, [dict(type='file', path=n, size=len(d), oid=blob_id(d), **(dict(lfs=dict(oid=hashlib.sha256(d).hexdigest(), size=len(d), pointerSize=130)) if is_lfs(n) else {})) for n,d in found.items()])

    def preupload(self, body, name, rev):
        self.writer(name); r,oid = self.repo(name, rev)
        modes = [dict(path=f['path'], uploadMode='lfs' if is_lfs(f['path']) else 'regular', shouldIgnore=False, oid=None) for f in json.loads(body)['files']]
        raise Reply(200, dict(files=modes, commitOid=oid))

    def batch(self, body, name):
        self.writer(name); self.repo(name)
        d = json.loads(body)
        there = lambda o: {} if o['oid'] in self.hub.objects else dict(actions=dict(upload=dict(href=f"{self.hub.url}/lfs/{o['oid']}"), verify=dict(href=f"{self.hub.url}/lfs/{o['oid']}/verify")))
        raise Reply(200, dict(transfer='basic', objects=[dict(oid=o['oid'], size=o['size'], authenticated=True, **there(o)) for o in d['objects']]))

    def put(self, body, oid):
        if hashlib.sha256(body).hexdigest()!=oid: refuse(400, 'content does not match its oid')
        self.hub.objects[oid] = body
        raise Reply(200, ETag=f'"{oid}"')

    def verify(self, body, oid): raise Reply(200 if oid in self.hub.objects and json.loads(body)['size']==len(self.hub.objects[oid]) else 404)

    def commit(self, body, name, rev):
        self.writer(name); r = self.repo(name, rev)[0]
        if rev not in r.refs: refuse(400, 'not a branch')
        if self.hub.refuse_commits: refuse(403, 'Storage limit reached')
        changes = {}
        for d in map(json.loads, body.splitlines()):
            k,v = d['key'],d['value']
            if k=='file': changes[v['path']] = base64.b64decode(v['content'])
            elif k=='lfsFile': changes[v['path']] = self.hub.objects[v['oid']]
            elif k=='deletedFile': changes[v['path']] = None
            elif k!='header': refuse(400, f'unknown operation {k}')
        oid = r.commit(changes, rev)
        raise Reply(200, dict(success=True, commitOid=oid, commitUrl=f'{self.hub.url}/{name}/commit/{oid}', hookOutput=''))

    def resolve(self, body, name, rev, path):
        r,oid = self.repo(name, rev)
        data = r.commits[oid].get(path)
        if data is None: raise Reply(404, dict(error='Entry not found'), X_Error_Code='EntryNotFound', X_Error_Message='Entry not found', X_Repo_Commit=oid)
        sha = hashlib.sha256(data).hexdigest()
        if not is_lfs(path): raise Reply(200, data, ETag=f'"{blob_id(data)}"', X_Repo_Commit=oid, Content_Type='text/plain')
        self.hub.objects[sha] = data
        raise Reply(302, Location=f'{self.hub.cdn}/cdn/{sha}', X_Repo_Commit=oid, X_Linked_Etag=f'"{sha}"', X_Linked_Size=len(data))

    def serve_object(self, body, oid):
        if oid not in self.hub.objects: refuse(404, 'no such object')
        raise Reply(200, self.hub.objects[oid], ETag=f'"{oid}"', Content_Type='application/octet-stream')

model = r'(?P<name>[\w.-]+/[\w.-]+)'
routes = [
    ('GET', '/api/whoami-v2', Handler.whoami),
    ('POST', '/api/repos/create', Handler.create),
    ('POST', '/api/validate-yaml', Handler.validate),
    ('GET', f'/api/models/{model}', Handler.info),
    ('GET', f'/api/models/{model}/revision/(?P<rev>.+)', Handler.info),
    ('GET', f'/api/models/{model}/tree/(?P<rev>[^/]+)(?:/(?P<under>.*))?', lambda h, body, name, rev, under: Handler.tree(h, body, name, rev, under or '')),
    ('POST', f'/api/models/{model}/preupload/(?P<rev>.+)', Handler.preupload),
    ('POST', rf'/{model}\.git/info/lfs/objects/batch', Handler.batch),
    ('PUT', '/lfs/(?P<oid>[0-9a-f]{64})', Handler.put),
    ('POST', '/lfs/(?P<oid>[0-9a-f]{64})/verify', Handler.verify),
    ('POST', f'/api/models/{model}/commit/(?P<rev>.+)', Handler.commit),
    ('*', f'/{model}/resolve/(?P<rev>[^/]+)/(?P<path>.+)', Handler.resolve),
    ('*', '/cdn/(?P<oid>[0-9a-f]{64})', Handler.serve_object)]

@contextmanager
def Hub():
    "The server, in a thread: `url`, `repos` (id -> `Repo`), `seen` (method, path, authorization); `broken` is a status for everything, `cut` breaks off downloads, `refuse_commits`"
    class Hub(Handler): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    port = server.server_address[1]
    hub = Hub.hub = type('State', (), dict(url=f'http://127.0.0.1:{port}', cdn=f'http://localhost:{port}', repos={}, objects={}, seen=[], broken=None, cut=False, refuse_commits=False))()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
    try: yield hub
    finally: server.shutdown(); server.server_close()

def client_env(url, home, login=True):
    "Environment of a client of ours: its Hub, its cache, and its token (True: the owner's)"
    drop = 'HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_HUB_CACHE', 'TRANSFORMERS_OFFLINE'
    env = {k: v for k,v in os.environ.items() if k not in drop}
    env.update(HF_ENDPOINT=url, HF_HOME=str(home), HF_HUB_OFFLINE='0', HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_PROGRESS_BARS='1', OMP_NUM_THREADS='1')
    return dict(env, HF_TOKEN=token if login is True else login) if login else env
