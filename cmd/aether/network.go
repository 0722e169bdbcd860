package main

import (
	"github.com/spf13/cobra"

	"github.com/aethervm/aether/sandbox"
)

// networkOptions are the flags about the network of a sandbox.
type networkOptions struct {
	net   string
	allow []string
}

func (o *networkOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.net, "net", "", "`network`: \"none\", or \"outbound\" to reach what --allow says, or all; default none, outbound with --allow")
	flags.StringArrayVar(&o.allow, "allow", nil, "`rule` for what it may reach, such as \"pypi.org:443\" (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{string(sandbox.NetworkNone), string(sandbox.NetworkOutbound)}, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses flags that mean nothing, before anything slow is done.
func (o *networkOptions) check() error {
	switch network := sandbox.Network(o.net); {
	case network != "" && network != sandbox.NetworkNone && network != sandbox.NetworkOutbound:
		return usageError(`"none" or "outbound", as in "--net outbound"`, "--net %q is no network", o.net)
	case network == sandbox.NetworkNone && len(o.allow) > 0:
		return usageError("leave out one of them", "--net none allows nothing, --allow %s something", o.allow[0])
	}
	for _, rule := range o.allow {
		if _, err := sandbox.ParseEgressRule(rule); err != nil {
			return err
		}
	}
	return nil
}

// apply sets the network of a spec.
func (o *networkOptions) apply(spec *sandbox.Spec) {
	spec.Network, spec.Egress = sandbox.Network(o.net), o.allow
	if o.net == "" && len(o.allow) > 0 {
		spec.Network = sandbox.NetworkOutbound
	}
}
