package runtime

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

func allCapabilities() []Capability { return []Capability{CanRead, CanExec, CanFork, CanNetwork} }

// tokenPrefix makes a token known for one wherever it is found.
const tokenPrefix = "aether_"

// localTenant is the name of the tenant of whoever runs this process.
const localTenant = "local"

// tenant is one in memory.
type tenant struct {
	tenantRecord
	ledger *ledger
	kept   *storage
}

func newTenant(t tenantRecord) *tenant {
	return &tenant{tenantRecord: t, ledger: newLedger("tenant", t.Budget, nil), kept: newStorage()}
}

func newToken() (token, digest string) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, digestOf(token)
}

func digestOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// CreateTenant makes a tenant and the first token for it. The token is not kept: only its digest is.
func (r *Runtime) CreateTenant(_ context.Context, spec TenantSpec) (t Tenant, token string, err error) {
	c := r.call("create tenant")
	c.note("name", spec.Name)
	defer c.end(&err)
	if c.refused != nil {
		return Tenant{}, "", c.refused
	}
	if spec.Name == localTenant {
		return Tenant{}, "", refuse(CodeInvalid, c.op, "choose another name", "%q is the tenant of whoever runs the runtime", localTenant)
	}
	token, digest := newToken()
	t, err = r.addTenant(spec, digest)
	if err != nil {
		return Tenant{}, "", err
	}
	return t, token, nil
}

func (r *Runtime) addTenant(spec TenantSpec, digests ...string) (Tenant, error) {
	const op = "create tenant"
	if !nameRE.MatchString(spec.Name) {
		return Tenant{}, refuse(CodeInvalid, op, "use 1 to 64 of A-Z a-z 0-9 . _ -", "the name is %q", clip(spec.Name, 64))
	}
	if spec.Capabilities == nil {
		spec.Capabilities = DefaultCapabilities()
	}
	if err := checkCapabilities(spec.Capabilities); err != nil {
		return Tenant{}, refuse(CodeInvalid, op, "they are read, exec, fork and network", "%v", err)
	}
	if err := spec.Budget.check(); err != nil {
		return Tenant{}, refuse(CodeInvalid, op, "give zero for no bound", "%v", err)
	}
	t := tenantRecord{
		Tenant: Tenant{ID: newID(prefixTenant), Name: spec.Name, Capabilities: slices.Clone(spec.Capabilities),
			Budget: spec.Budget, Created: time.Now().UTC().Round(0)},
		Tokens: digests,
	}
	r.admin.Lock() // so that no two get one name
	defer r.admin.Unlock()
	r.mu.Lock()
	for _, other := range r.tenants {
		if other.Name == t.Name {
			r.mu.Unlock()
			return Tenant{}, refuse(CodeConflict, op, "choose another name", "there is a tenant %q", t.Name)
		}
	}
	r.mu.Unlock()
	if err := r.store.put(bucketTenants, t.ID, t); err != nil {
		return Tenant{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tenants[t.ID] = newTenant(t)
	return t.public(), nil
}

func (t tenantRecord) public() Tenant {
	p := t.Tenant
	p.Capabilities = slices.Clone(p.Capabilities)
	return p
}

// Tenants lists all tenants by name.
func (r *Runtime) Tenants(context.Context) ([]Tenant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Tenant, 0, len(r.tenants))
	for _, t := range r.tenants {
		list = append(list, t.public())
	}
	slices.SortFunc(list, func(a, b Tenant) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// NewToken makes a token for a tenant; all former ones are no longer valid. Sessions that are open
// stay.
func (r *Runtime) NewToken(_ context.Context, tenantID string) (token string, err error) {
	c := r.call("new token")
	c.tenant = tenantID
	defer c.end(&err)
	if c.refused != nil {
		return "", c.refused
	}
	token, digest := newToken()
	if _, err := r.changeTenant(c.op, tenantID, func(t *tenantRecord) { t.Tokens = []string{digest} }); err != nil {
		return "", err
	}
	return token, nil
}

// changeTenant makes a change to what is kept of a tenant, on disk and then here. It is made twice.
func (r *Runtime) changeTenant(op, tenantID string, change func(*tenantRecord)) (Tenant, error) {
	r.admin.Lock()
	defer r.admin.Unlock()
	t, err := r.tenant(op, tenantID)
	if err != nil {
		return Tenant{}, err
	}
	changed := t.tenantRecord
	change(&changed)
	if err := r.store.put(bucketTenants, tenantID, changed); err != nil {
		return Tenant{}, err
	}
	t.ledger.set(changed.Budget)
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&t.tenantRecord) // and nothing else of it: the rest is read without the lock
	return t.public(), nil
}

// RemoveTenant closes a tenant's sessions, and removes its snapshots, its templates and the tenant itself. If something of that
// fails it can be tried again; the tenant's tokens are no more in any case.
func (r *Runtime) RemoveTenant(ctx context.Context, tenantID string) (err error) {
	c := r.call("remove tenant")
	c.tenant = tenantID
	defer c.end(&err)
	if c.refused != nil {
		return c.refused
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	t, err := r.tenant("remove tenant", tenantID)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // whoever asked may go: it is removed all the same
	mute := t.tenantRecord
	mute.Tokens, mute.Views = nil, nil
	if err := r.store.put(bucketTenants, tenantID, mute); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.tenants, tenantID) // from here on nobody opens a session for it
	r.mu.Unlock()
	defer func() {
		if err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Tokens, t.Views = nil, nil
			r.tenants[tenantID] = t
		}
	}()
	defer r.events.forget(tenantID)
	for _, s := range r.sessionsOf(tenantID) {
		if err := s.Close(); err != nil {
			return err
		}
	}
	for _, snap := range r.snapshotsOf(tenantID) {
		if err := r.removeSnapshot(ctx, snap); err != nil {
			return err
		}
	}
	for _, t := range r.templatesOf(tenantID) {
		if err := r.removeTemplate(ctx, t.ID); err != nil {
			return err
		}
	}
	return r.store.remove(bucketTenants, tenantID)
}

// Authenticate finds the tenant of a token.
func (r *Runtime) Authenticate(_ context.Context, token string) (Tenant, error) {
	// What is compared is a digest: how long that takes tells nothing of a token.
	digest := digestOf(token)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tenants {
		if slices.Contains(t.Tokens, digest) {
			return t.public(), nil
		}
	}
	return Tenant{}, refuse(CodeUnauthenticated, "authenticate", "give a token that is valid", "the token is unknown")
}

// Local is the tenant of whoever runs this process, with all capabilities and no token. It is made
// when it is first asked for.
func (r *Runtime) Local(context.Context) (Tenant, error) {
	find := func() (Tenant, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, t := range r.tenants {
			if t.Name == localTenant {
				return t.public(), true
			}
		}
		return Tenant{}, false
	}
	if t, ok := find(); ok {
		return t, nil
	}
	t, err := r.addTenant(TenantSpec{Name: localTenant, Capabilities: allCapabilities()})
	if CodeOf(err) == CodeConflict { // somebody else was faster
		if t, ok := find(); ok {
			return t, nil
		}
	}
	if err != nil {
		return Tenant{}, r.translate("create tenant", "", err)
	}
	return t, nil
}

func (r *Runtime) tenant(op, id string) (*tenant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tenants[id]; t != nil {
		return t, nil
	}
	return nil, refuse(CodeNotFound, op, "create it", "there is no tenant %q", clip(id, 64))
}
