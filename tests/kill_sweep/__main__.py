from kill_sweep.sweep import main

main()
