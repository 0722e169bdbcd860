package vms

func gVisor() []Evidence {
	readme := source{"gVisor README", "https://github.com/google/gvisor/blob/master/README.md", "2026"}
	platforms := source{"gVisor platform guide", "https://gvisor.dev/docs/architecture_guide/platforms", "2026"}
	checkpoint := source{"gVisor checkpoint/restore guide", "https://gvisor.dev/docs/user_guide/checkpoint_restore/", "2026"}
	warmSentry := source{"gVisor issue 12809, warm sentry mode (GCE n2-standard-8)",
		"https://github.com/google/gvisor/issues/12809", "2026-03-28"}
	rfc := source{"gVisor RFC, issue 14229", "https://github.com/google/gvisor/issues/14229", "2026"}
	runsc := source{"gVisor sources, commands of runsc", "https://github.com/google/gvisor/tree/master/runsc/cmd", "2026"}
	return []Evidence{
		published("start.cold.p50_ms", 190, "about 190 ms over 300 runs, runsc called directly, from process start to the end of "+
			"the program; on a platform of 2021, before systrap", middleware21),

		published("density.idle_mib", 22.6, "fall of the host's available memory for each of 50 idle containers started with "+
			"Docker (23,695,032 bytes); no Python run", gvisorDensity),
		judged("density.fixed_mib", 0, "no daemon: runsc starts one Sentry and one gofer for each sandbox", runsc),

		judged("isolation.separate_kernel_ratio", 1, "the Sentry, an application kernel in user space, answers guest code", readme),
		judged("isolation.hardware_boundary_ratio", 0, "the default platform, systrap, runs guest code as host processes; "+
			"the KVM platform uses virtualisation extensions but keeps a process model", platforms),
		judged("isolation.syscalls_count", 0, "system calls of guest code are intercepted, none reaches the host's kernel; "+
			"what the Sentry itself may call is for isolation.outside_ratio", readme),

		judged("snapshot.memory_survives_ratio", 1, "processes are saved and restored into a new container", checkpoint),
		judged("snapshot.files_survive_ratio", 1, "file data in the sandbox's memory is saved and restored with it", checkpoint),
		judged("snapshot.pause_ratio", 1, "runsc has pause and resume", runsc),
		noted(Snapshotting, 104, "ms", "the longer end of 87 to 104 ms that a proposal gives for the pause of a snapshot; not "+
			"scored, because what is proposed is not what is shipped", rfc),
		published("snapshot.restore.p50_ms", 144, "mean of 10 restores without network; where the clock stops is not said, ours "+
			"stops at the first exec reply", warmSentry),

		judged("control.jobs_ratio", 7.0/8, "create and delete, exec, streams, events, pause, checkpoint and restores into "+
			"new containers; no files in and out of a running sandbox", runsc),
	}
}
