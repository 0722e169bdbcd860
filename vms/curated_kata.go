package vms

func kata() []Evidence {
	architecture := source{"Kata Containers architecture",
		"https://github.com/kata-containers/kata-containers/tree/main/docs/design/architecture", "2026"}
	limitations := source{"Kata Containers docs/Limitations.md, version of 2021",
		"https://github.com/kata-containers/kata-containers/blob/main/docs/Limitations.md", "2021"}
	kuasar := source{"Kuasar benchmark, raw data for Kata 2.5.2 with Cloud Hypervisor",
		"https://github.com/kuasar-io/kuasar/blob/main/tests/benchmark/Benchmark.md", "2023"}
	pss := source{"Kata Containers CI measurement in runtime pull request 328",
		"https://github.com/kata-containers/runtime/pull/328", "2018-05-22"}
	pause := source{"Kata Containers issue 11946, answer of a maintainer",
		"https://github.com/kata-containers/kata-containers/issues/11946", "2025-10-29"}
	return []Evidence{
		published("start.cold.p50_ms", 600, "about 600 ms over 300 runs, from process start to the end of the program, with QEMU", middleware21),
		published("start.cold.p99_ms", 980, "99th percentile of about 1,000 pods in series through containerd, measured by "+
			"another project; its median is 900 ms", kuasar),
		published("start.burst8.p99_ms", 1824, "99th percentile with 50 pods at once, where ours has eight: an upper bound", kuasar),

		published("density.idle_mib", 155.9, "proportional size of QEMU, proxy and shim of one container (142,043 + 6,756 + "+
			"10,867 KiB), no Python run; later versions have no proxy", pss),

		judged("isolation.separate_kernel_ratio", 1, "every pod has its own VM with its own kernel", architecture),
		judged("isolation.hardware_boundary_ratio", 1, "the VM's vCPUs are kept apart by hardware virtualisation", architecture),
		judged("isolation.syscalls_count", 0, "system calls of guest code are answered by the guest's kernel", architecture),

		judged("snapshot.memory_survives_ratio", 0, "the runtime provides no checkpoint and restore", limitations),
		judged("snapshot.files_survive_ratio", 0, "the runtime provides no checkpoint and restore", limitations),
		judged("snapshot.pause_ratio", 1, "containerd's pause and resume act on the container inside the VM", pause),

		judged("control.jobs_ratio", 5.0/8, "the containerd task API: life cycle, exec, streams, statistics and pause; no files, "+
			"snapshots or copies", architecture),
	}
}
