package runtime

import (
	"errors"

	"github.com/aethervm/aether/sandbox"
)

// limitEgress refuses rules that the operator does not let anybody name, and gives a network without rules those of
// the operator.
func (r *Runtime) limitEgress(op string, spec *SandboxSpec) error {
	if r.egress == nil || spec.Network != sandbox.NetworkOutbound {
		return nil
	}
	rules, err := sandbox.Spec{Network: spec.Network, Egress: spec.Egress}.EgressRules()
	if err != nil {
		return err
	}
	if len(spec.Egress) == 0 {
		spec.Egress = r.egress.Texts()
		return nil
	}
	var errs []error
	for _, rule := range rules {
		errs = append(errs, r.egress.Check(rule))
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(CodeDenied, op, "ask whoever runs aether to allow it, or leave it out", "not allowed here: %v", err)
	}
	return nil
}

// limitKept refuses a snapshot or template whose network is more than the operator lets anybody have. The system restores what
// was saved: rules cannot be given to one that has none.
func (r *Runtime) limitKept(op, what string, kept sandbox.Spec, spec SandboxSpec) error {
	saved := SandboxSpec{Network: kept.Network, Egress: kept.Egress}
	if r.egress != nil && saved.Network == sandbox.NetworkOutbound && len(saved.Egress) == 0 {
		return refuse(CodeDenied, op, "create a sandbox, and copy over what is needed", "not allowed here: the %s has a network without rules", what)
	}
	return errors.Join(r.limitEgress(op, &saved), r.limitEgress(op, &spec))
}
