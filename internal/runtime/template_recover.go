package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// recoverTemplates reads the templates that there are, and removes what was not finished.
func (r *Runtime) recoverTemplates(ctx context.Context) error {
	owner, known, err := get[ownerRecord](r.store, bucketMeta, metaOwner)
	if err != nil || !known {
		// Drivers keep templates for all runtimes of the host: a new name finds nothing of another one's.
		if owner = ownerRecord(newID(prefixOwner)); err != nil {
			r.remark(fmt.Sprintf("what was left of templates is not looked for: %v", err))
		}
		if err := r.store.put(bucketMeta, metaOwner, owner); err != nil {
			return err
		}
	}
	r.owner = string(owner)
	unread := map[string]bool{}
	records, err := all[templateRecord](r.store, bucketTemplates, func(key string, err error) {
		unread[key] = true
		r.remark(fmt.Sprintf("a template in the database cannot be read, and is left there: %v", err))
	})
	if err != nil {
		return err
	}
	there := r.keptTemplates(ctx)
	var lost []string
	for id, record := range records {
		kept, seen := there[record.System][record.Kept.Name]
		if seen && kept.Digest != record.Digest { // what has the name is not what was made
			lost = append(lost, id)
			record.Kept = kept
			r.dropKept(ctx, record)
			delete(there[record.System], record.Kept.Name)
			continue
		}
		t := &template{templateRecord: record, unseen: !seen}
		if _, asked := there[record.System]; asked && !seen {
			r.remark(fmt.Sprintf("template %s: %s does not list it, as if it were removed or could not be read: it stays, and is looked for when it is asked for", id, record.System))
		}
		bytes := record.Bytes
		if seen {
			bytes = kept.Bytes
		}
		t.kept = r.keptFrom(record.Tenant, Templates, bytes, nil)
		img, release, err := r.cfg.Images.Resolve(ctx, record.Kept.Spec.Image.Digest)
		if err == nil {
			t.image = newHold(release)
			t.Kept.Spec.Image = img
		} else {
			r.remark(fmt.Sprintf("template %s cannot be copied: its image: %s", id, r.scrub(err.Error())))
		}
		r.templates[id] = t
	}
	r.found.Templates = len(r.templates)
	if err := r.store.remove(bucketTemplates, lost...); err != nil {
		return err
	}
	for system, kept := range there {
		for name, k := range kept {
			id, own := strings.CutPrefix(name, r.owner+".")
			if !own || r.templates[id] != nil || unread[id] {
				continue
			}
			lost = append(lost, id)
			r.dropKept(ctx, templateRecord{TemplateInfo: TemplateInfo{ID: id, System: system}, Kept: k})
		}
	}
	r.found.Lost = append(r.found.Lost, lost...)
	slices.Sort(r.found.Lost)
	return nil
}

// dropKept removes what a driver has of a template that is not whole, now or later. Its tenant, if that is known, pays for it until
// then.
func (r *Runtime) dropKept(ctx context.Context, record templateRecord) {
	t := &template{templateRecord: record, kept: r.keptFrom(record.Tenant, Templates, record.Kept.Bytes, nil)}
	if err := r.discardTemplate(ctx, t); err != nil {
		r.remark(fmt.Sprintf("%s: could not remove template %s, which is not whole: %s", t.System, t.Kept.Name, r.scrub(err.Error())))
		r.leave(t, err)
	}
}

// keptTemplates are what the drivers keep, by system and name. A system that cannot be asked is left out.
func (r *Runtime) keptTemplates(ctx context.Context) map[string]map[string]sandbox.Template {
	there := map[string]map[string]sandbox.Template{}
	for system, p := range r.systems.drivers {
		keeper, ok := p.driver.(sandbox.Templater)
		if !ok {
			continue
		}
		list, err := keeper.Templates(ctx)
		if err != nil {
			r.remark(fmt.Sprintf("%s: could not list the templates: %s", system, r.scrub(err.Error())))
			continue
		}
		there[system] = map[string]sandbox.Template{}
		for _, k := range list {
			there[system][k.Name] = k
		}
	}
	return there
}
