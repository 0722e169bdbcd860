package agentsandbox

import "strings"

// Cmdline is a kernel command line of a guest: what every guest gets, the words of its machine, and the
// arguments of the agent, its init.
func Cmdline(words []string, arguments ...string) string {
	all := []string{
		"loglevel=4", "rdinit=/init",
		// Never wait for entropy: the CPU's is credited, and the agent adds the host's at once.
		"random.trust_cpu=on",
		"rcupdate.rcu_expedited=1", "cryptomgr.notests",
		// Of the security modules only the one that programs can use by themselves.
		"lsm=landlock", "audit=0",
	}
	all = append(append(all, words...), "--")
	return strings.Join(append(all, arguments...), " ")
}
