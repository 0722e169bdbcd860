package vms

// The curated evidence is one file a system. The rules that its values follow are in docs/RUBRIC.md:
// a figure is a source's own, never estimated; a judged yes-or-no is 1 where the system's own
// document offers the ability, 0.5 where only in part or as an experiment, 0 where it says no, and
// absent where it says nothing; control.jobs_ratio counts the documented ones of eight kinds of job.

// curated returns fresh curated evidence, so that no caller can change another's.
func curated(vm VM) []Evidence {
	switch vm {
	case AetherVM:
		return aetherVM()
	case Firecracker:
		return firecracker()
	case CloudHypervisor:
		return cloudHypervisor()
	case GVisor:
		return gVisor()
	case Kata:
		return kata()
	case QEMUKVM:
		return qemuKVM()
	case Docker:
		return docker()
	}
	return nil
}

// source is where evidence is from; see Evidence.Source and Evidence.Date.
type source struct {
	title string
	link  string
	date  string
}

// Sources that several systems share.
var (
	// nsdiData holds the samples behind the paper's figures; 500 serial boots, 1,000 boots ten at once.
	nsdiData = source{
		"Firecracker NSDI '20 raw data, data/m5d.metal (2 x Xeon 8175M, hyper-threading off)",
		"https://github.com/firecracker-microvm/nsdi2020-data", "2020-02",
	}
	nsdiPaper = source{
		"Agache et al., Firecracker: Lightweight Virtualization for Serverless Applications, NSDI '20",
		"https://www.usenix.org/conference/nsdi20/presentation/agache", "2020-02",
	}
	middleware21 = source{
		"van Rijn and Rellermeyer, A Fresh Look at the Architecture and Performance of Contemporary Isolation Platforms, Middleware '21, section 3.5 (2 x EPYC 7542)",
		"https://arxiv.org/abs/2110.11462", "2021-10-21",
	}
	gvisorDensity = source{
		"gVisor performance guide, density.csv (GCE n1-standard-4)",
		"https://github.com/google/gvisor/blob/master/website/performance/density.csv", "2020",
	}
)

// Claims that hold for each hypervisor whose figures are from nsdiData.
const (
	nsdiBoot = "from the fork of the VMM process to the guest kernel's fork of init, 1 vCPU, 256 MiB, " +
		"minimal Linux 4.14; ours runs on to the first exec reply, with a distribution's kernel"
	nsdiBurst = "99th percentile of 1,000 boots, ten at once, to the guest kernel's fork of init; ours is " +
		"eight at once, to the first exec reply"
	nsdiRSS = "resident size of the VMM with a booted 128 MiB guest, almost all of which is touched; ours " +
		"is the proportional size and kernel memory, after a Python run"
)

// published, judged and noted make evidence whose axis and unit follow from the metric.
func published(metric string, value float64, claim string, from source) Evidence {
	return fromSource(KindPublished, metric, value, claim, from)
}

func judged(metric string, value float64, claim string, from source) Evidence {
	return fromSource(KindJudged, metric, value, claim, from)
}

func fromSource(kind Kind, metric string, value float64, claim string, from source) Evidence {
	return Evidence{
		Axis: AxisOf(metric), Kind: kind, Metric: metric, Claim: claim,
		Value: &value, Unit: unitOf(metric), Source: from.title + ", " + from.link, Date: from.date,
	}
}

// noted makes evidence that is shown but not scored, because no metric means what it says.
func noted(axis Axis, value float64, unit, claim string, from source) Evidence {
	return Evidence{
		Axis: axis, Kind: KindPublished, Claim: claim,
		Value: &value, Unit: unit, Source: from.title + ", " + from.link, Date: from.date,
	}
}
