package runtime

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/aethervm/aether/sandbox"
)

// template is one that is whole. It does not change: one that is shared takes its place in the list.
type template struct {
	templateRecord
	image *hold   // nil if the image is not there any more, and of the host's own
	kept  *charge // nil of the host's own
	// unseen tells that its driver did not list it when the runtime was opened: it may be back when it is asked for.
	unseen bool
	// host tells that it is none of a tenant's: whoever owns the host has made it.
	host bool
}

var (
	templateNameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	// keptRE are the names under which drivers keep templates of tenants, of any runtime of this host.
	keptRE = regexp.MustCompile(`^` + prefixOwner + `[a-z2-7]{10}\.` + prefixTemplate + `[a-z2-7]{10}$`)
)

// ReservedTemplateName tells a name that a template cannot be given, as it looks like the ID of one, or like what a runtime calls
// one on its host.
func ReservedTemplateName(name string) bool { return IsTemplateID(name) || keptRE.MatchString(name) }

// with is a template that is changed, to take the place of t.
func (t *template) with(change func(*template)) *template {
	c := *t
	change(&c)
	return &c
}

// info describes the template to a tenant.
func (t *template) info(tenant string) TemplateInfo {
	i := t.TemplateInfo
	if i.Foreign = t.Tenant != tenant; i.Foreign {
		i.WarmUp = nil
	}
	return i
}

// spec is what a copy of the template is.
func (t *template) spec() SandboxSpec {
	k := t.Kept.Spec
	return SandboxSpec{System: t.System, Image: t.Image, VCPUs: k.VCPUs, MemoryMiB: k.MemoryMiB, Processes: k.Processes,
		Network: k.Network, Egress: k.Egress, Env: k.Env}
}

// Templates lists those that the session may copy, in the order of their creation.
func (s *Session) Templates(ctx context.Context) (list []TemplateInfo, err error) {
	ctx, c, err := s.call(ctx, "templates", "", CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return nil, err
	}
	return s.r.templateInfos(ctx, s.tenant)
}

// TemplatesOf lists the templates that a tenant may copy, which needs CanRead, without a session.
func (r *Runtime) TemplatesOf(ctx context.Context, tenantID string) ([]TemplateInfo, error) {
	const op = "templates"
	tenant, err := r.reader(op, tenantID)
	if err != nil {
		return nil, err
	}
	list, err := r.templateInfos(ctx, tenant)
	return list, r.translate(op, "", err)
}

func (r *Runtime) templateInfos(ctx context.Context, tenant Tenant) ([]TemplateInfo, error) {
	list := []TemplateInfo{}
	r.mu.Lock()
	for _, t := range r.templates {
		if t.Tenant == tenant.ID || t.Shared {
			list = append(list, t.info(tenant.ID))
		}
	}
	r.mu.Unlock()
	host, err := r.hostTemplates(ctx, tenant)
	for _, t := range host {
		list = append(list, t.info(tenant.ID))
	}
	slices.SortFunc(list, func(a, b TemplateInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return list, err
}

// hostTemplates are those that drivers keep for whoever owns the host, if the tenant is that.
func (r *Runtime) hostTemplates(ctx context.Context, tenant Tenant) ([]*template, error) {
	if !r.cfg.HostTemplates || tenant.Name != localTenant {
		return nil, nil
	}
	var list []*template
	for _, d := range r.cfg.Drivers {
		keeper, ok := d.(sandbox.Templater)
		if !ok {
			continue
		}
		kept, err := keeper.Templates(ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range kept {
			if keptRE.MatchString(k.Name) {
				continue
			}
			t := &template{host: true, templateRecord: templateRecord{Kept: k, TemplateInfo: infoOf(k)}}
			t.ID, t.Image = k.Name, k.Spec.Image.Digest
			list = append(list, t)
		}
	}
	return list, nil
}

// infoOf is what a driver says of a template.
func infoOf(k sandbox.Template) TemplateInfo {
	return TemplateInfo{Name: k.Name, System: k.System, Digest: k.Digest, VCPUs: k.Spec.VCPUs, MemoryMiB: k.Spec.MemoryMiB,
		Network: k.Spec.Network, Egress: k.Spec.Egress, Bytes: k.Bytes, Created: k.Created.UTC().Round(0)}
}

// findTemplate finds one that the tenant may copy, by ID or name: its own first, then one that is shared, then the host's.
// What another tenant has is not found, in the same words as what there is not. image is a share of its image, which the
// caller releases; it is nil if that is not there.
func (r *Runtime) findTemplate(ctx context.Context, op string, tenant Tenant, name string) (t *template, image *hold, err error) {
	if t, image := r.findRecorded(tenant.ID, name); t != nil {
		return t, image, nil
	}
	host, err := r.hostTemplates(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range host {
		if t.Name != name {
			continue
		}
		if img, release, err := r.cfg.Images.Resolve(ctx, t.Kept.Spec.Image.Digest); err == nil {
			t.Kept.Spec.Image = img
			return t, newHold(release), nil
		}
		return t, nil, nil
	}
	return nil, nil, noTemplate(op, name)
}

func (r *Runtime) findRecorded(tenant, name string) (*template, *hold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.templates[name]; t != nil && (t.Tenant == tenant || t.Shared) {
		return t, t.image.share()
	}
	var found *template
	for _, t := range r.templates {
		if t.Name == name && (t.Tenant == tenant || t.Shared && found == nil) {
			found = t
			if t.Tenant == tenant {
				break
			}
		}
	}
	if found == nil {
		return nil, nil
	}
	return found, found.image.share()
}

func noTemplate(op, name string) error {
	return refuse(CodeNotFound, op, "list the templates that there are", "there is no template %q", clip(name, 64))
}

// TemplateOf describes one that a tenant may copy, by ID or name, without a session. It needs CanRead.
func (r *Runtime) TemplateOf(ctx context.Context, tenantID, name string) (TemplateInfo, error) {
	const op = "template"
	tenant, err := r.reader(op, tenantID)
	if err != nil {
		return TemplateInfo{}, err
	}
	t, image, err := r.findTemplate(ctx, op, tenant, name)
	if err != nil {
		return TemplateInfo{}, r.translate(op, "", err)
	}
	defer image.release()
	return t.info(tenantID), nil
}

// reader is a tenant that has CanRead.
func (r *Runtime) reader(op, tenantID string) (Tenant, error) {
	t, err := r.tenant(op, tenantID)
	if err != nil {
		return Tenant{}, err
	}
	if !slices.Contains(t.Capabilities, CanRead) {
		return Tenant{}, refuse(CodeDenied, op, "use another token", "this tenant has no capability %q", CanRead)
	}
	return t.Tenant, nil
}

func (r *Runtime) templatesOf(tenant string) []*template {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*template
	for _, t := range r.templates {
		if t.Tenant == tenant {
			list = append(list, t)
		}
	}
	return list
}

// ShareTemplate lets all tenants copy a template of a tenant, or no more. It is for whoever runs the runtime: what was in the
// template's memory is in every copy. A new template that takes over the name is not shared.
func (r *Runtime) ShareTemplate(_ context.Context, tenantID, name string, shared bool) (info TemplateInfo, err error) {
	c := r.call("share template")
	c.tenant = tenantID
	c.note("template", name)
	c.note("shared", fmt.Sprint(shared))
	defer c.end(&err)
	if c.refused != nil {
		return info, c.refused
	}
	r.naming.Lock() // so that it is not removed by a new one of its name meanwhile, and no two of one name are shared
	defer r.naming.Unlock()
	t, image := r.findRecorded(tenantID, name)
	defer image.release()
	if t == nil || t.Tenant != tenantID {
		return info, noTemplate(c.op, name)
	}
	changed := t.with(func(c *template) { c.Shared = shared })
	if err := r.canShare(c.op, changed); err != nil {
		return info, err
	}
	// One that was removed meanwhile stays so.
	err = r.store.update(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte(bucketTemplates)).Get([]byte(t.ID)) == nil {
			return noTemplate(c.op, name)
		}
		return putIn(tx, bucketTemplates, t.ID, changed.templateRecord)
	})
	if err != nil {
		return info, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.templates[t.ID] == t {
		r.templates[t.ID] = changed
	}
	return changed.info(tenantID), nil
}

// canShare refuses to share two templates of one name.
func (r *Runtime) canShare(op string, t *template) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, other := range r.templates {
		if t.Shared && id != t.ID && other.Shared && other.Name == t.Name {
			return refuse(CodeConflict, op, "share that no more first", "another template %q is shared already", t.Name)
		}
	}
	return nil
}
