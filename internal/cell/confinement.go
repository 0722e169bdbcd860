package cell

// Layer is one of the means that confine a cell.
type Layer struct {
	// Name is one of the constants below.
	Name string `json:"name"`
	// Applied says whether it is in force.
	Applied bool `json:"applied"`
	// Detail says how; or why it is not in force, or only in part.
	Detail string `json:"detail,omitempty"`

	cause error // of its absence; does not cross the socket
}

// Names of layers.
const (
	LayerUser         = "user"         // a user of its own, that no other process of the host has
	LayerNamespaces   = "namespaces"   // user, mount, PID, network, IPC, UTS, cgroup
	LayerCgroup       = "cgroup"       // bounds memory and processes
	LayerRoot         = "root"         // an empty, read-only root directory
	LayerLimits       = "rlimits"      // bound descriptors, locked memory, file sizes, core dumps
	LayerNoNewPrivs   = "no_new_privs" // no program gives it more rights
	LayerCapabilities = "capabilities" // none held, and none to be had
	LayerLandlock     = "landlock"     // no file, no network, no signal to the outside
	LayerSeccomp      = "seccomp"      // a list of the system calls that it may make
)

// Confinement is all layers, in the order of the constants above.
type Confinement []Layer

// Missing returns the layers that are not in force.
func (c Confinement) Missing() []Layer {
	var list []Layer
	for _, l := range c {
		if !l.Applied {
			list = append(list, l)
		}
	}
	return list
}

// Layer returns the layer of that name.
func (c Confinement) Layer(name string) Layer {
	for _, l := range c {
		if l.Name == name {
			return l
		}
	}
	return Layer{Name: name, Detail: "it was not tried"}
}

// layer describes the outcome of applying a layer.
func layer(name, how string, err error) Layer {
	if err != nil {
		return Layer{Name: name, Detail: err.Error(), cause: err}
	}
	return Layer{Name: name, Applied: true, Detail: how}
}
