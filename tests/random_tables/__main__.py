from random_tables.comparison import main

main()
